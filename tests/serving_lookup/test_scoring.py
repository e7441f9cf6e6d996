"""What a list scored on demand leaves out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from serving_lookup.scoring import score_list
from serving_lookup.user_inputs import UserInputs


class Recorder:
    """Notes what the bound catalogue is asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def top_k_one(self, _user: object, _k: int, **asked: Any) -> SimpleNamespace:
        self.asked = asked
        return SimpleNamespace(counts=np.array([1]), item_ids=np.array([[7]]), scores=np.array([[0.5]]))


@pytest.mark.parametrize(
    ("features", "excluded"),
    [
        ({"pair_events": [2.0, float("nan"), None, 1.0]}, [1, 4]),
        ({"pair_share": [0.1, 0.2, 0.3, 0.4]}, [1, 2, 3, 4]),
    ],
)
def test_neighbours_of_what_a_user_had_may_be_listed(
    features: dict[str, list[float | None]], excluded: list[int]
) -> None:
    catalogue = Recorder()
    inputs = UserInputs(pairs=cast("Any", ([1, 2, 3, 4], features)))
    for exclude_seen in (True, False):
        artifact = cast("Any", SimpleNamespace(exclude_seen=exclude_seen, k=1, catalogue=catalogue))
        assert score_list(artifact, inputs) == ([7], [0.5])
        assert catalogue.asked["exclude"] == (excluded if exclude_seen else None)
        assert catalogue.asked["pairs"] is inputs.pairs
