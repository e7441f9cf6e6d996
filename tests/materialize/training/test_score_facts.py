"""What scores mean, on lists small enough to count by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from features.schema import ITEM, USER, FeatureColumn, FeatureSchema, affinity
from materialize.training.score_facts import gain_by_scope, score_facts


def test_calibration_and_distribution_count_every_listed_pair() -> None:
    # 20 users, lists of two of five items; the first list has one entry only.
    index = np.tile([3, 1], (20, 1))
    index[0, 1] = -1
    scores = np.where(index == 3, 0.0, -4.0).astype(np.float32)
    scores[0, 1] = np.nan
    wanted = np.arange(10) * 5 + 3  # item 3 comes true for half of the users
    task = SimpleNamespace(space=SimpleNamespace(items=range(5)), wanted=lambda: wanted)
    top = SimpleNamespace(item_index=index, scores=scores)
    facts = score_facts(cast("Any", task), cast("Any", top), probabilities=True)
    tenths = facts["calibration"]
    assert sum(tenth["pairs"] for tenth in tenths) == 39
    assert tenths[0]["predicted"] == pytest.approx(1 / (1 + np.exp(4)))
    assert tenths[0]["happened"] == 0
    assert tenths[-1]["predicted"] == pytest.approx(0.5)
    hits = sum(tenth["pairs"] * tenth["happened"] for tenth in tenths)
    assert hits == pytest.approx(10)
    bars = facts["distribution"]
    assert (sum(bars["hits"]), sum(bars["misses"])) == (10, 29)
    assert (bars["hits"][-1], bars["misses"][0]) == (10, 19)
    assert score_facts(cast("Any", task), cast("Any", top), probabilities=False)["calibration"] == []


def test_gain_is_added_up_by_scope() -> None:
    columns = [("a", USER), ("b", ITEM), ("c", affinity("shelf")), ("d", ITEM)]
    schema = FeatureSchema(tuple(FeatureColumn(name, scope) for name, scope in columns))
    assert gain_by_scope({"a": 0.2, "b": 0.3, "d": 0.5}, schema) == {
        "item": 0.8,
        "user": 0.2,
        "affinity:shelf": 0.0,
    }
