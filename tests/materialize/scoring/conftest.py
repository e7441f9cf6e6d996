"""Small random worlds: users, items, affinities, pairs, a booster trained on their explicit cross product."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from materialize.scoring import ITEM, PAIR, USER, BoundCatalogue, PairScorer, affinity

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SPECIAL = np.array(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-38,
        1.1754944e-38,
        3.4028235e38,
        -3.4028235e38,
        1.0,
        np.nextafter(np.float32(1), 2),
    ],
    np.float32,
)
"""Values on which comparisons go wrong: signed zeros, denormals, extremes, neighbours."""
GROUPS = ("brand", "category")
CATEGORIES = 12


@dataclass
class World:
    """Everything about one random case; ``cross`` is [U * I, features] in booster order."""

    booster: Any
    scopes: dict[str, Any]
    users: pa.Table
    items: pa.Table
    affinity: dict[str, pa.Table]
    pairs: pa.Table
    cross: NDArray[np.float32]
    user_latent: NDArray[np.float32] | None
    item_latent: NDArray[np.float32] | None
    margins: NDArray[np.float32]
    types: list[str] = field(default_factory=list)

    def bind(self) -> BoundCatalogue:
        return PairScorer.from_xgboost(self.booster, self.scopes).bind(self.items, self.item_latent)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"affinity": self.affinity, "pairs": self.pairs, "latent": self.user_latent}


def _column(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[np.float32]:
    if kind == "c":
        values = rng.integers(0, CATEGORIES, shape).astype(np.float32)
    elif kind == "few":
        values = rng.integers(-2, 3, shape).astype(np.float32)
    elif kind == "special":
        values = rng.choice(SPECIAL, shape)
    else:
        values = rng.normal(size=shape).astype(np.float32)
    values[rng.random(shape) < rng.choice([0.0, 0.3])] = np.nan
    return values


def make_world(  # noqa: C901 - one world, told from top to bottom
    seed: int,
    *,
    users: int = 40,
    items: int = 60,
    trees: int = 6,
    latent: int = 0,
    plain: bool = False,
    **params: Any,
) -> World:
    """A world that is a pure function of the arguments; ``plain``: user and item scopes only."""
    rng = np.random.default_rng([seed, zlib.crc32(repr(sorted(params.items())).encode())])
    kinds = ["q", "few", "special", "c"]
    scopes: dict[str, Any] = {}
    columns: list[tuple[str, str, NDArray[np.float32]]] = []
    values: dict[str, NDArray[np.float32]] = {}
    groups = {
        g: rng.integers(0, n, items) for g, n in zip(GROUPS, (1 + int(rng.integers(8)), 3), strict=True)
    }
    present = {g: rng.random((users, int(codes.max()) + 1)) < 0.4 for g, codes in groups.items()}
    has_pair = rng.random((users, items)) < rng.choice([0.02, 0.3])

    def add(name: str, scope: Any, kind: str, value: NDArray[np.float32], cross: NDArray[np.float32]) -> None:
        scopes[name], values[name] = scope, value
        columns.append((name, "c" if kind == "c" else "q", cross.reshape(-1)))

    for i in range(1 + rng.integers(4)):
        value = _column(rng, (users,), kind := str(rng.choice(kinds)))
        add(f"u{i}", USER, kind, value, np.repeat(value, items))
    for i in range(rng.integers(4)):
        value = _column(rng, (items,), kind := str(rng.choice(kinds)))
        add(f"i{i}", ITEM, kind, value, np.tile(value, users))
    if not plain:
        for g in GROUPS[: rng.integers(3)]:
            for i in range(1 + rng.integers(2)):
                value = _column(rng, present[g].shape, kind := str(rng.choice(kinds)))
                value[~present[g]] = np.nan
                add(f"{g}{i}", affinity(g), kind, value, value[:, groups[g]])
        for i in range(rng.integers(3)):
            value = _column(rng, (users, items), kind := str(rng.choice(kinds)))
            value[~has_pair] = np.nan
            add(f"p{i}", PAIR, kind, value, value)
    order = rng.permutation(len(columns))
    columns = [columns[o] for o in order]
    cross = np.stack([c for _, _, c in columns], axis=1)
    types = [t for _, t, _ in columns]
    known = np.nan_to_num(cross, posinf=3, neginf=-3).clip(-3, 3)
    label = (known @ rng.normal(size=len(types)) + rng.normal(size=len(cross)) > 0).astype(np.float32)
    data = xgb.DMatrix(
        cross, label, feature_names=[n for n, _, _ in columns], feature_types=types, enable_categorical=True
    )
    p: NDArray[np.float32] | None = None
    q: NDArray[np.float32] | None = None
    if latent:
        # Halves: every product and sum is exact, in any order of addition.
        p, q = ((rng.integers(-4, 5, (n, latent)) / 2).astype(np.float32) for n in (users, items))
        data.set_base_margin((p @ q.T).reshape(-1))
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, **params}
    if str(settings["objective"]).startswith("rank:"):
        data.set_info(group=np.full(users, items))
    booster = xgb.train(settings, data, trees)
    margins = booster.predict(data, output_margin=True).reshape(users, items)
    user_ids, item_ids = pa.array(np.arange(users) * 3 - 5), pa.array([f"item-{i}" for i in range(items)])

    def of(kind: str, group: str = "") -> list[str]:
        return [n for n, s in scopes.items() if s.kind == kind and s.group == group]

    tables = {}
    for g in GROUPS:
        if of("affinity", g):
            u, code = np.nonzero(present[g])
            order = rng.permutation(len(u))
            u, code = u[order], code[order]
            tables[g] = pa.table(
                {
                    "user_id": user_ids.take(pa.array(u)),
                    g: [f"{g}-{c}" for c in code],
                    **{n: values[n][u, code] for n in of("affinity", g)},
                }
            )
    pair_user, pair_item = np.nonzero(has_pair)
    return World(
        booster=booster,
        scopes=scopes,
        users=pa.table({"user_id": user_ids, **{n: values[n] for n in of("user")}}),
        items=pa.table(
            {
                "item_id": item_ids,
                **{g: [f"{g}-{c}" for c in groups[g]] for g in GROUPS},
                **{n: values[n] for n in of("item")},
            }
        ),
        affinity=tables,
        pairs=pa.table(
            {
                "user_id": user_ids.take(pa.array(pair_user)),
                "item_id": item_ids.take(pa.array(pair_item)),
                **{n: values[n][pair_user, pair_item] for n in of("pair")},
            }
        ),
        cross=cross,
        user_latent=p,
        item_latent=q,
        margins=margins,
        types=types,
    )


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """:func:`make_world`."""
    return make_world
