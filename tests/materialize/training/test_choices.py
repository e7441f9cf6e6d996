"""Choices from the data, on labels small enough to count by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pytest

from materialize.settings import Settings
from materialize.training.choices import choose_even_users, choose_exclude_seen
from materialize.training.pair_codes import PairCodes
from materialize.training_settings import TrainingSettings

if TYPE_CHECKING:
    from materialize.training.window_labels import WindowLabels

ITEMS = 100


def labels_of(counts: list[int], repeats: int) -> WindowLabels:
    """Users with so many positives each, the first ``repeats`` of all being repeats."""
    space = PairCodes(pa.array(range(len(counts))), pa.array(range(ITEMS)))
    positives = np.concatenate([user * ITEMS + np.arange(count) for user, count in enumerate(counts)])
    return cast("WindowLabels", SimpleNamespace(space=space, positives=positives, seen=positives[:repeats]))


@pytest.mark.parametrize(("repeats", "exclude"), [(0, True), (1, True), (2, False), (60, False)])
def test_rare_repeats_are_left_out(repeats: int, exclude: bool) -> None:
    labels = [labels_of([10] * 10, repeats)]
    choice = choose_exclude_seen(Settings(), labels)
    assert choice.value is exclude
    assert f"{repeats / 100:.1%}" in choice.reason
    asked = Settings(training=TrainingSettings(exclude_seen=not exclude))
    assert choose_exclude_seen(asked, labels).value is not exclude


@pytest.mark.parametrize(("counts", "even"), [([5] * 20, False), ([60, 50] + [3] * 18, True), ([4], True)])
def test_users_weigh_evenly_where_few_do_most(counts: list[int], even: bool) -> None:
    choice: Any = choose_even_users([labels_of(counts, 0)])
    assert choice.value is even
    assert "busiest tenth" in choice.reason
