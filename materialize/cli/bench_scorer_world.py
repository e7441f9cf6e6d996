"""Generated models and tables of the shapes that ``prescore bench scorer`` measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from features.schema import ITEM, PAIR, USER, affinity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring import BoundCatalogue, FeatureScope

    Float32 = NDArray[np.float32]

SIDE = 16
"""User features, and item features."""
GROUPS, GROUP = 300, "category"
PAIRS_PER_USER = 300
_FEW_ROWS = 50_000
"""So few are trained on by one thread: several would wait for each other most of the time."""
_TRAINING_USERS, _TRAINING_PAIRS, _PAIRS_PER_ITEM = 2000, 300_000, 100


@dataclass(frozen=True)
class Shape:
    """What a model is made of.

    Attributes:
        trees, depth: Of the forest.
        affinity, pair: Features of these scopes, beside 16 user and 16 item features.
        latent: Dimensions of the latent margin; 0: none.
        required, aim: Wanted ratio to ``inplace_predict`` without its matrix.
        label: Name, if the model has one.
    """

    trees: int
    depth: int
    affinity: int = 0
    pair: int = 0
    latent: int = 0
    required: float = 0.0
    aim: float = 0.0
    label: str = ""

    @property
    def name(self) -> str:
        """Such as ``300x6 + 4 affinity``."""
        if self.label:
            return self.label
        extra = {"affinity": self.affinity, "pair": self.pair, "latent": self.latent}
        return " + ".join([f"{self.trees}x{self.depth}", *(f"{n} {what}" for what, n in extra.items() if n)])


SHAPES = (
    Shape(100, 6, required=70, aim=150),
    Shape(300, 6, required=60, aim=120),
    Shape(500, 8, required=20, aim=50),
    Shape(300, 6, affinity=4, required=30, aim=60),
    Shape(300, 6, latent=64, required=40, aim=80),
    Shape(300, 6, pair=4, required=30, aim=60),
)


@dataclass(frozen=True)
class Users:
    """Some users' inputs.

    Attributes:
        table: ``user_id`` and features.
        inputs: Further arguments of :meth:`BoundCatalogue.top_k`.
    """

    table: pa.Table
    inputs: dict[str, Any]


class BenchWorld(Protocol):
    """A model with its items and users."""

    @property
    def shape(self) -> Shape:
        """What the model is made of, and what is wanted of it."""

    @property
    def items(self) -> int:
        """Size of the catalogue."""

    @property
    def booster(self) -> Any:
        """``xgboost.Booster``."""

    @property
    def training(self) -> tuple[Float32, Float32, Float32 | None]:
        """Matrix, labels and base margin, to train a peer of the same size."""

    def bind(self) -> BoundCatalogue:
        """The catalogue that is measured."""

    def users(self, count: int, seed: int = 0) -> Users:
        """At most ``count`` users; others by another seed."""

    def one(self) -> dict[str, Any]:
        """Arguments of ``top_k_one`` for one of them."""

    def cross(self, users: Users, count: int) -> tuple[Float32, Float32 | None]:
        """The explicit matrix of the first users against all items, float32[n * I, features], and its base margin."""


@dataclass(frozen=True)
class GeneratedUsers(Users):
    """… and the arrays that they were made of, for the explicit matrix."""

    features: Float32
    affinity: Float32 | None
    pair_item: NDArray[np.int64] | None
    pair: Float32 | None


@dataclass(frozen=True)
class World:
    """A shape with its items and a booster trained on it; the same for the same shape and number of items."""

    shape: Shape
    items: int

    @cached_property
    def _base(self) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {
            "item": rng.normal(size=(self.items, SIDE)).astype(np.float32),
            "group": rng.integers(0, GROUPS, self.items),
            "latent": rng.normal(size=(self.items, self.shape.latent)).astype(np.float32),
            "mix": rng.normal(size=(SIDE, SIDE)) / 4,
        }

    @property
    def scopes(self) -> dict[str, FeatureScope]:
        """Scope by feature, in booster order."""
        kinds = (
            ("u", USER, SIDE),
            ("i", ITEM, SIDE),
            ("a", affinity(GROUP), self.shape.affinity),
            ("p", PAIR, self.shape.pair),
        )
        return {f"{letter}{n}": scope for letter, scope, count in kinds for n in range(count)}

    @property
    def item_table(self) -> pa.Table:
        """Input of ``bind``."""
        columns = {f"i{n}": self._base["item"][:, n] for n in range(SIDE)}
        return pa.table({"item_id": np.arange(self.items), GROUP: self._base["group"].astype(str), **columns})

    @cached_property
    def training(self) -> tuple[Float32, Float32, Float32 | None]:
        """Matrix, labels and base margin of sampled pairs."""
        rng, base, shape = np.random.default_rng(1), self._base, self.shape
        pairs = min(_TRAINING_PAIRS, _PAIRS_PER_ITEM * self.items)
        user = rng.normal(size=(_TRAINING_USERS, SIDE)).astype(np.float32)
        u, i = rng.integers(0, _TRAINING_USERS, pairs), rng.integers(0, self.items, pairs)
        item = base["item"][i]
        margin = (
            np.einsum("nd,nd->n", user[u] @ base["mix"], item) * 0.5
            + item[:, 0]
            + 0.5 * np.sin(user[u, 1] * 2) * item[:, 1]
        )
        columns, start = [user[u], item], None
        if shape.affinity:
            table = rng.normal(size=(_TRAINING_USERS, GROUPS, shape.affinity)).astype(np.float32)
            value = table[u, base["group"][i]]
            margin = margin + value @ rng.normal(size=shape.affinity) / 2 + value[:, 0] * item[:, 2] * 0.3
            columns.append(value)
        if shape.pair:
            value = rng.normal(size=(pairs, shape.pair)).astype(np.float32)
            value[rng.random(pairs) < 0.7] = np.nan
            margin = margin + np.nan_to_num(value) @ rng.normal(size=shape.pair) / 2 + ~np.isnan(value[:, 0])
            columns.append(value)
        if shape.latent:
            vector = rng.normal(size=(_TRAINING_USERS, shape.latent)).astype(np.float32) / 8
            start = np.einsum("nd,nd->n", vector[u], base["latent"][i]).astype(np.float32)
            margin = margin + start / 2
        label = (rng.random(pairs) < 1 / (1 + np.exp(-margin))).astype(np.float32)
        return np.hstack(columns), label, start

    @cached_property
    def booster(self) -> Any:
        """An XGBoost model of the shape."""
        import xgboost as xgb

        matrix, label, start = self.training
        data = xgb.QuantileDMatrix(matrix, label, base_margin=start, feature_names=list(self.scopes))
        settings = {"objective": "binary:logistic", "max_depth": self.shape.depth, "eta": 0.1}
        if len(matrix) < _FEW_ROWS:
            settings["nthread"] = 1
        return xgb.train(settings, data, self.shape.trees)

    def bind(self) -> BoundCatalogue:
        """The catalogue that is measured."""
        latent = self._base["latent"] if self.shape.latent else None
        from materialize.scoring import PairScorer

        return PairScorer.from_xgboost(self.booster, self.scopes).bind(self.item_table, latent)

    def users(self, count: int, seed: int = 2) -> GeneratedUsers:
        """Users that were not trained on."""
        rng, shape = np.random.default_rng(seed), self.shape
        features = rng.normal(size=(count, SIDE)).astype(np.float32)
        ids = np.arange(count)
        table = pa.table({"user_id": ids, **{f"u{n}": features[:, n] for n in range(SIDE)}})
        inputs: dict[str, Any] = {}
        value = pair = pair_item = None
        if shape.affinity:
            value = rng.normal(size=(count, GROUPS, shape.affinity)).astype(np.float32)
            flat = value.reshape(-1, shape.affinity)
            inputs["affinity"] = {
                GROUP: pa.table(
                    {
                        "user_id": np.repeat(ids, GROUPS),
                        GROUP: np.tile(np.arange(GROUPS).astype(str), count),
                        **{f"a{n}": flat[:, n] for n in range(shape.affinity)},
                    }
                )
            }
        if shape.pair:
            some = min(PAIRS_PER_USER, self.items)
            pair_item = np.stack([rng.choice(self.items, some, replace=False) for _ in range(count)])
            pair = rng.normal(size=(count, some, shape.pair)).astype(np.float32)
            flat = pair.reshape(-1, shape.pair)
            inputs["pairs"] = pa.table(
                {
                    "user_id": np.repeat(ids, some),
                    "item_id": pair_item.reshape(-1),
                    **{f"p{n}": flat[:, n] for n in range(shape.pair)},
                }
            )
        if shape.latent:
            inputs["latent"] = rng.normal(size=(count, shape.latent)).astype(np.float32) / 8
        return GeneratedUsers(table, inputs, features, value, pair_item, pair)

    def one(self) -> dict[str, Any]:
        """A user without affinities and pairs."""
        users = self.users(1, seed=3)
        latent = users.inputs.get("latent")
        return {
            "user_features": {f"u{n}": float(users.features[0, n]) for n in range(SIDE)},
            "latent": None if latent is None else latent[0],
        }

    def cross(self, users: Users, count: int) -> tuple[Float32, Float32 | None]:
        """See :class:`BenchWorld`; of users that were generated here."""
        if not isinstance(users, GeneratedUsers):
            raise TypeError(users)
        base, items = self._base, self.items
        columns = [np.repeat(users.features[:count], items, axis=0), np.tile(base["item"], (count, 1))]
        if users.affinity is not None:
            columns.append(users.affinity[:count, base["group"]].reshape(count * items, -1))
        if users.pair is not None and users.pair_item is not None:
            dense = np.full((count, items, self.shape.pair), np.nan, np.float32)
            dense[np.arange(count)[:, None], users.pair_item[:count]] = users.pair[:count]
            columns.append(dense.reshape(count * items, -1))
        start = None
        if self.shape.latent:
            start = (users.inputs["latent"][:count] @ base["latent"].T).astype(np.float32).reshape(-1)
        return np.hstack(columns), start
