import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from materialize.training.pair_codes import PairCodes, contains
from materialize.training.sampling import SampledPairs, sample_pairs

USERS, ITEMS = 4, 400
SPACE = PairCodes(pa.array(range(USERS)), pa.array(range(ITEMS)))
CODES = st.sets(st.integers(0, USERS * ITEMS - 1), max_size=300).map(
    lambda found: np.array(sorted(found), np.int64)
)


def sample(positives: np.ndarray, history: np.ndarray, excluded: np.ndarray, seed: int = 0) -> SampledPairs:
    return sample_pairs(
        SPACE,
        positives,
        [history[::2], history[1::2]],
        excluded=excluded,
        negatives_per_positive=3,
        rng=np.random.default_rng(seed),
    )


@given(CODES, CODES, CODES)
def test_a_users_rows_stand_for_all_items_that_may_be_listed(
    positives: np.ndarray, history: np.ndarray, excluded: np.ndarray
) -> None:
    sampled = sample(positives, history, excluded)
    assert np.all(np.diff(sampled.codes) > 0)
    assert not contains(excluded, sampled.codes).any()
    assert np.isin(np.setdiff1d(positives, excluded), sampled.codes).all()
    assert np.array_equal(sampled.labels == 1, np.isin(sampled.codes, positives))
    assert np.all(sampled.weights[sampled.labels == 1] == 1)
    assert np.all(sampled.weights >= 1)
    weights = np.bincount(sampled.codes // ITEMS, sampled.weights, minlength=USERS)
    np.testing.assert_allclose(weights, ITEMS - SPACE.per_user(excluded), rtol=1e-5)


def test_the_weighted_mean_estimates_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(1)
    score = rng.gamma(0.5, 1.0, USERS * ITEMS)
    history = np.unique(rng.integers(0, USERS * ITEMS, 800))
    positives = history[::40]
    estimates = []
    for seed in range(200):
        drawn = sample(positives, history, np.zeros(0, np.int64), seed)
        estimates.append((score[drawn.codes] * drawn.weights).sum() / drawn.weights.sum())
    assert abs(np.mean(estimates) / score.mean() - 1) < 0.02


def test_the_same_seed_draws_the_same() -> None:
    positives = np.arange(0, USERS * ITEMS, 100)
    nothing = np.zeros(0, np.int64)
    one, again, other = (sample(positives, nothing, nothing, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.codes, again.codes)
    assert np.array_equal(one.weights, again.weights)
    assert not np.array_equal(one.codes, other.codes)


def test_one_candidate_leaves_nothing_to_draw() -> None:
    space = PairCodes(pa.array([1, 2]), pa.array(["only"]))
    nothing = np.zeros(0, np.int64)
    sampled = sample_pairs(
        space,
        np.array([0, 1]),
        [nothing],
        excluded=nothing,
        negatives_per_positive=3,
        rng=np.random.default_rng(0),
    )
    assert sampled.codes.tolist() == [0, 1]
    assert sampled.labels.tolist() == [1, 1]
