"""The selection is exact whatever the scores look like, also where its estimate of a bound goes wrong."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from materialize.scoring.kernels_selection import select_top
from materialize.scoring.kernels_simd import LANES, aligned

PATTERNS = [
    "normal",
    "few",
    "zeros",
    "every eighth",
    "all but every eighth",
    "hidden",
    "rising",
    "constant",
    "huge",
]


@given(
    seed=st.integers(0, 2**20),
    pattern=st.sampled_from(PATTERNS),
    items=st.sampled_from([1, 7, 400, 1500]),
    k=st.sampled_from([1, 3, 12, 40]),
    lanes=st.sampled_from([1, 5, 64]),
    spare=st.sampled_from([1, 30, 2000]),
)
def test_the_best_of_each_lane(seed: int, pattern: str, items: int, k: int, lanes: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    score = aligned((items, LANES), np.float32)
    score[:] = rng.normal(size=score.shape)
    eighth = (np.arange(items) % 8 == 0)[:, None]
    if pattern == "few":
        score[:] = rng.integers(-1, 2, score.shape)
    elif pattern == "zeros":
        score[:] = rng.choice(np.array([0.0, -0.0, 1e-45, -1e-45], np.float32), score.shape)
    elif pattern == "every eighth":
        score[:] += 100 * eighth
    elif pattern == "all but every eighth":
        score[:] -= 100 * eighth
    elif pattern == "hidden":
        score[rng.random(score.shape) < 0.97] = -np.inf
    elif pattern == "rising":
        score[:] = np.sort(score, axis=0)
    elif pattern == "constant":
        score[:] = 0.5
    elif pattern == "huge":
        score[:] = rng.choice(np.array([3.4e38, -3.4e38, np.inf, 1.0], np.float32), score.shape)
    order = rng.permutation(items).astype(np.int32)
    k = min(k, items)
    item, best, count = (
        np.empty((lanes, k), np.int32),
        np.empty((lanes, k), np.float32),
        np.empty(lanes, np.int32),
    )
    keys = np.empty((LANES, k + spare), np.uint64)
    bounds, sampled = aligned((LANES,), np.float32), aligned((LANES,), np.int32)
    select_top(score, order, bounds, sampled, keys, lanes, k, item, best, count)
    by_item = np.empty_like(score)
    by_item[order] = score
    for b in range(lanes):
        expected = np.argsort(-by_item[:, b], kind="stable")[:k]
        expected = expected[by_item[expected, b] > -np.inf]
        assert count[b] == len(expected)
        np.testing.assert_array_equal(item[b, : count[b]], expected)
        np.testing.assert_array_equal(best[b, : count[b]], by_item[expected, b])
        assert (item[b, count[b] :] == -1).all()
