"""Pairs that have values of pair features: trees that are selected and trees that are walked give XGBoost's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from materialize.scoring import ITEM, PAIR, USER, PairScorer, affinity
from materialize.scoring.pair_forest import pair_forest

LARGEST = np.finfo(np.float32).max
USERS, ITEMS = 70, 45
TYPES = {"u": "q", "i": "q", "k": "c", "a": "q", "p": "q", "c": "c"}
SCOPES = {"u": USER, "i": ITEM, "k": ITEM, "a": affinity("g"), "p": PAIR, "c": PAIR}


@pytest.fixture(scope="module")
def cross() -> Any:
    """float32[USERS * ITEMS, 6]: a third of the pairs has values, some missing, infinite, or at thresholds; groups are items' thirds."""
    rng = np.random.default_rng(8)
    out = np.empty((USERS, ITEMS, len(TYPES)), np.float32)
    out[:, :, 0] = rng.normal(size=(USERS, 1))
    out[:, :, 1] = rng.normal(size=ITEMS)
    out[:, :, 2] = rng.integers(0, 6, ITEMS)
    out[:, :, 3] = rng.normal(size=(USERS, 3))[:, np.arange(ITEMS) % 3]
    out[:, :, 4] = rng.choice(
        np.append(rng.normal(size=40), [np.nan, LARGEST, -LARGEST, 0, -0.0]), (USERS, ITEMS)
    )
    out[:, :, 5] = rng.choice([0, 1, 2, 3, 4, np.nan], (USERS, ITEMS))
    out[rng.random((USERS, ITEMS)) < 0.67, 4:] = np.nan
    return out.reshape(-1, len(TYPES))


@pytest.fixture(scope="module")
def booster(cross: Any) -> Any:
    """Deep trees, trees that are single leaves, shallow ones."""
    rng = np.random.default_rng(9)
    data = xgb.DMatrix(
        cross, rng.normal(size=len(cross)), feature_names=list(TYPES), feature_types=list(TYPES.values()),
        enable_categorical=True,
    )  # fmt: skip
    settings = {"min_child_weight": 0, "lambda": 0, "nthread": 1, "max_cat_to_onehot": 3}
    model = None
    for rounds, more in (
        (3, {"max_depth": 11}),
        (2, {"gamma": 1e9}),
        (4, {"max_depth": 4}),
        (1, {"max_depth": 12}),
    ):
        model = xgb.train({**settings, **more}, data, rounds, xgb_model=model)
    return model


def test_selected_and_walked_trees_have_the_bits_of_xgboost(cross: Any, booster: Any) -> None:
    rng = np.random.default_rng(10)
    cube = cross.reshape(USERS, ITEMS, -1)
    users = pa.table({"user_id": np.arange(USERS), "u": cube[:, 0, 0]})
    items = {
        "item_id": np.arange(ITEMS),
        "g": (np.arange(ITEMS) % 3).astype(str),
        "i": cube[0, :, 1],
        "k": cube[0, :, 2],
    }
    user, group = np.repeat(np.arange(USERS), 3), np.tile(np.arange(3), USERS)
    affinities = {"g": pa.table({"user_id": user, "g": group.astype(str), "a": cube[:, :3, 3].reshape(-1)})}
    known = np.flatnonzero(~np.isnan(cross[:, 4:]).all(axis=1))
    values = np.where(
        np.abs(cross[known, 4]) == LARGEST, np.copysign(np.inf, cross[known, 4]), cross[known, 4]
    )
    pairs = pa.table(
        {
            "user_id": known // ITEMS,
            "item_id": known % ITEMS,
            "p": pa.array(values.astype(np.float64), from_pandas=True),
            "c": pa.array(cross[known, 5], from_pandas=True),
        }
    )
    # Before them, others for the same pairs, which do not count, and some of nobody and nothing; all in disorder.
    others = pairs.slice(0, 300)
    others = others.set_column(0, "user_id", pa.array(np.where(np.arange(300) % 9, others["user_id"], -1)))
    others = others.set_column(2, "p", pa.array(rng.normal(size=300)))
    pairs = pa.concat_tables([others, pairs.take(rng.permutation(len(pairs)))])

    catalogue = PairScorer.from_xgboost(booster, SCOPES).bind(pa.table(items))
    trees = pair_forest(catalogue.forest, catalogue.layout)
    assert (trees.depth > 0).any()
    assert (trees.depth == 0).any()
    assert (np.diff(trees.node_start) + np.diff(trees.low_start) == 0)[trees.depth == 0].any()
    data = xgb.DMatrix(
        cross, feature_names=list(TYPES), feature_types=list(TYPES.values()), enable_categorical=True
    )
    expected = booster.predict(data, output_margin=True).reshape(USERS, ITEMS)
    got = catalogue.score(users, affinity=affinities, pairs=pairs)
    np.testing.assert_array_equal(got, expected)

    mine = pairs.filter(pa.compute.equal(pairs["user_id"], 3))
    one = catalogue.top_k_one(
        {"u": float(cube[3, 0, 0])},
        ITEMS,
        affinity={"g": (["0", "1", "2"], {"a": cube[3, :3, 3].tolist()})},
        pairs=(mine["item_id"].to_pylist(), {name: mine[name].to_pylist() for name in ("p", "c")}),
    )
    np.testing.assert_array_equal(one.scores[0], expected[3, one.item_index[0]])
