import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from materialize.training.metrics import measure


def test_measures_of_a_hand_worked_ranking() -> None:
    ranked = np.array([[3, 0, 1], [2, -1, -1], [0, 1, 2]])
    positives = np.array(
        [0 * 5 + 0, 0 * 5 + 4, 1 * 5 + 2]
    )  # user 0 wants items 0 and 4, user 1 item 2, user 2 none
    quality = measure(ranked, positives, np.array([0.5, 0.25, 1.0, 0.125, 1.0]))
    second = 1 / math.log2(3)
    assert quality.per_user["ndcg@10"][:2].tolist() == pytest.approx([second / (1 + second), 1.0])
    assert quality.per_user["recall@10"][:2].tolist() == [0.5, 1.0]
    assert np.isnan(quality.per_user["recall@50"][2])
    assert quality.means()["recall@10"] == 0.75
    assert quality.means(np.array([True, False, True]))["recall@10"] == 0.5
    assert quality.coverage == 4 / 5
    assert quality.per_user["hit_rate@10"][:2].tolist() == [1.0, 1.0]
    assert quality.per_user["novelty@10"][:2].tolist() == [(3 + 1 + 2) / 3, 0.0]


@given(st.integers(0, 1000))
def test_ndcg_equals_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = 6, 30
    scores = rng.permutation(users * items).reshape(users, items)
    wanted = rng.random((users, items)) < 0.2
    wanted[:, 0] = True
    ranked = np.argsort(-scores, axis=1)[:, :20]
    quality = measure(ranked, np.flatnonzero(wanted), np.ones(items))
    assert quality.means()["ndcg@10"] == pytest.approx(ndcg_score(wanted, scores, k=10))


def test_intervals_hold_the_mean_and_shrink_with_users() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for users in (50, 5000):
        ranked = rng.integers(0, 20, (users, 1))
        quality = measure(ranked, np.arange(users) * 20, np.full(20, 0.5))
        low, high = quality.intervals(0)["ndcg@10"]
        assert low <= quality.means()["ndcg@10"] <= high
        assert quality.intervals(0) == quality.intervals(0)
        assert quality.gain_over(quality, "ndcg@10", 0) == [0.0, 0.0]
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_nothing_to_find_is_zero() -> None:
    quality = measure(np.zeros((3, 2), np.int64), np.zeros(0, np.int64), np.ones(4))
    assert set(quality.means().values()) == {0.0}
    assert quality.intervals(0)["ndcg@10"] == [0.0, 0.0]
    assert quality.coverage == 0.0
