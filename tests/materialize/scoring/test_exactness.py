"""Exact where scorers of forests go wrong: at thresholds, in deep trees, and in trees that were grown under constraints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from materialize.scoring import ITEM, PAIR, USER, PairScorer, affinity
from materialize.scoring.model_reader import read_xgboost

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LARGEST = np.finfo(np.float32).max


def beside(rng: np.random.Generator, thresholds: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Thresholds, their float32 neighbours, float64 that round to either, infinities, missing values."""
    t = rng.choice(thresholds, count).astype(np.float64)
    up, down = (
        np.nextafter(t.astype(np.float32), np.float32(to)).astype(np.float64) for to in (np.inf, -np.inf)
    )
    choices = [
        t,
        up,
        down,
        t + (up - t) * 0.499,
        t - (t - down) * 0.499,
        t + (up - t) * 0.501,
        t - (t - down) * 0.501,
    ]
    choices += [np.full(count, v) for v in (np.inf, -np.inf, np.nan, 1e300, -1e300, 1e-300)]
    return np.choose(rng.integers(0, len(choices), count), choices)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20))
def test_values_at_and_beside_every_threshold(world: Callable[..., Any], seed: int) -> None:
    case = world(seed % 50, plain=True, users=30, items=20, trees=5, max_depth=5)
    names = case.booster.feature_names
    rng = np.random.default_rng(seed)
    forest = read_xgboost(case.booster)
    numbers = [n for n, kind in zip(names, case.types, strict=True) if kind != "c"]
    tables = {USER: case.users, ITEM: case.items}
    for name in numbers:
        tested = (forest.feature == names.index(name)) & (forest.left >= 0)
        thresholds = forest.threshold[tested]
        if not len(thresholds) or (np.abs(thresholds) >= LARGEST).any():
            continue
        table = tables[case.scopes[name]]
        values = pa.array(beside(rng, thresholds, table.num_rows))
        tables[case.scopes[name]] = table.set_column(table.column_names.index(name), name, values)
    users, items = tables[USER], tables[ITEM]
    cross = np.empty((30, 20, len(names)))
    for at, name in enumerate(names):
        column = (users if case.scopes[name] == USER else items)[name].to_numpy().astype(np.float64)
        cross[:, :, at] = column[:, None] if case.scopes[name] == USER else column
    # XGBoost refuses infinities; beyond all thresholds is beyond all thresholds.
    rounded = np.clip(cross, -LARGEST, LARGEST).astype(np.float32).reshape(600, -1)
    expected = case.booster.inplace_predict(rounded, predict_type="margin")
    got = PairScorer.from_xgboost(case.booster, case.scopes).bind(items).score(users)
    np.testing.assert_array_equal(got.reshape(-1), expected)


def tables_of(cross: NDArray[np.float32], users: int) -> dict[str, Any]:
    """A matrix of u, i, a and p, in the order of pairs, as tables; every item is a group of its own."""
    items = len(cross) // users
    user, item = np.repeat(np.arange(users), items), np.tile(np.arange(items), users)
    keys = {"user_id": user, "item_id": item}
    return {
        "users": pa.table({"user_id": np.arange(users), "u": cross[::items, 0]}),
        "items": pa.table(
            {"item_id": np.arange(items), "g": [str(i) for i in range(items)], "i": cross[:items, 1]}
        ),
        "affinity": {"g": pa.table({"user_id": user, "g": [str(i) for i in item], "a": cross[:, 2]})},
        "pairs": pa.table({**keys, "p": cross[:, 3]}),
    }


@pytest.mark.parametrize(
    "params",
    [
        {"monotone_constraints": "(1,-1,0,1)", "max_depth": 6},
        {"interaction_constraints": "[[0, 1], [2, 3]]", "max_depth": 6},
        {"booster": "dart", "rate_drop": 0.4, "one_drop": 1, "normalize_type": "forest", "max_depth": 9},
    ],
    ids=["monotone", "interaction", "dart"],
)
def test_trees_grown_in_unusual_ways(params: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    users, items = 32, 40
    cross = np.stack(
        [
            np.repeat(rng.normal(size=users), items), np.tile(rng.normal(size=items), users),
            rng.normal(size=users * items), rng.normal(size=users * items),
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    label = cross.sum(axis=1) + rng.normal(size=len(cross))
    data = xgb.DMatrix(cross, label, feature_names=["u", "i", "a", "p"])
    settings = {"min_child_weight": 0, "lambda": 0, "nthread": 1, **params}
    booster = xgb.train(settings, data, 6)
    scopes = {"u": USER, "i": ITEM, "a": affinity("g"), "p": PAIR}
    tables = tables_of(cross, users)
    catalogue = PairScorer.from_xgboost(booster, scopes).bind(tables.pop("items"))
    got = catalogue.score(tables.pop("users"), **tables)
    np.testing.assert_array_equal(got.reshape(-1), booster.predict(data, output_margin=True))


def chain(rng: np.random.Generator, tree: dict[str, Any], depth: int) -> None:
    """Make a tree a chain: at every level one child is a leaf, sometimes the left one, sometimes the right one."""
    count = 2 * depth + 1
    left, right = np.full(count, -1), np.full(count, -1)
    goes_on_left = rng.random(depth) < 0.5
    inner = np.append(0, 2 * np.arange(depth) + 2 - goes_on_left)[:-1]
    left[inner] = 2 * np.arange(depth) + 1  # the right child follows: XGBoost relies on it
    right[inner] = left[inner] + 1
    parents = np.full(count, 2147483647)
    parents[left[inner]] = parents[right[inner]] = inner
    features = rng.integers(0, 4, count)
    # The chain goes on for nearly all values, so that many pairs reach its end.
    far = np.zeros(count)
    far[inner] = np.where(goes_on_left, 2.5, -2.5)
    noise = rng.normal(size=count)
    tree |= {
        "left_children": left.tolist(),
        "right_children": right.tolist(),
        "parents": parents.tolist(),
        "split_indices": features.tolist(),
        "split_conditions": np.where(left >= 0, far + noise * 0.4, noise).astype(np.float32).tolist(),
        "default_left": rng.integers(0, 2, count).tolist(),
        "split_type": [0] * count,
        **{name: [1.0] * count for name in ("base_weights", "loss_changes", "sum_hessian")},
    }
    tree["tree_param"]["num_nodes"] = str(count)


def test_trees_of_64_levels() -> None:
    rng = np.random.default_rng(6)
    users, items = 30, 40
    values = [np.repeat(rng.normal(size=users), items), np.tile(rng.normal(size=items), users)]
    cross = np.stack([*values, *rng.normal(size=(2, users * items))], axis=1).astype(np.float32)
    cross[::items][::3, 0] = np.nan
    cross[:, 0] = np.repeat(cross[::items, 0], items)
    data = xgb.DMatrix(cross, cross[:, 1] > 0, feature_names=["u", "i", "a", "p"])
    model = json.loads(bytes(xgb.train({"max_depth": 1, "nthread": 1}, data, 12).save_raw("json")))
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        chain(rng, tree, 64)
    raw = json.dumps(model).encode()
    booster = xgb.Booster(model_file=bytearray(raw))
    tables = tables_of(cross, users)
    scopes = {"u": USER, "i": ITEM, "a": affinity("g"), "p": PAIR}
    catalogue = PairScorer.from_xgboost(raw, scopes).bind(tables.pop("items"))
    expected = booster.predict(data, output_margin=True)
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(catalogue.score(tables.pop("users"), **tables).reshape(-1), expected)
