"""Samples the pairs to train on: all that have a history or a label, and few of the many others, weighted.

The pairs of a window are far too many (2,000 users times 14,000 items), and nearly all of them are
negatives without history. Those are drawn uniformly per user, and each drawn one stands for several:
its weight is the inverse of the probability to be drawn. So the sample's weighted loss estimates the
loss over all pairs, and scores stay comparable between users. Weights of several hundred need
``max_delta_step=1`` in XGBoost: without it, weighted logistic loss collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materialize.training.pair_codes import PairCodes, contains

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_NEGATIVES_PER_USER = 50
"""Users with few positives get so many uniform negatives all the same, and weights stay bounded."""


@dataclass(frozen=True)
class SampledPairs:
    """Pairs to train on, sorted by code, so by user.

    Attributes:
        codes: int64[n], distinct.
        labels: float32[n], 1 for a positive.
        weights: float32[n]: how many pairs each stands for.
    """

    codes: NDArray[np.int64]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]


def sample_pairs(
    space: PairCodes,
    positives: NDArray[np.int64],
    history: NDArray[np.int64],
    *,
    excluded: NDArray[np.int64],
    negatives_per_positive: int,
    rng: np.random.Generator,
) -> SampledPairs:
    """Sample the pairs of one label window.

    Args:
        space: Users (each with a positive) and candidate items.
        positives: Codes of pairs with the event that is to be predicted, sorted.
        history: Codes of pairs that have pair features, sorted; those without a positive are the hard negatives.
        excluded: Codes of pairs that are never listed, sorted: they are in no sample, whatever else they are.
        negatives_per_positive: Uniform draws per positive of a user, at least
            :data:`MIN_NEGATIVES_PER_USER`, among all other pairs.
        rng: Source of every draw.

    Returns:
        Every user's rows stand for all items that may be listed: its weights sum to their number, but for
        users whose draws all failed.
    """
    items = len(space.items)
    known = np.union1d(positives, history)
    known = known[~contains(excluded, known)]
    taken = np.union1d(known, excluded)
    per_user = space.per_user(positives)
    free = items - space.per_user(taken)
    draws = np.minimum(np.maximum(per_user * negatives_per_positive, MIN_NEGATIVES_PER_USER), 4 * free)
    drawn = np.repeat(np.arange(len(space.users)), draws) * items + rng.integers(0, items, int(draws.sum()))
    drawn = np.unique(drawn)
    drawn = drawn[~contains(taken, drawn)]
    counts = space.per_user(drawn)
    weight = free / np.maximum(counts, 1)
    codes = np.concatenate([known, drawn])
    weights = np.concatenate([np.ones(len(known)), weight[drawn // items]])
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    return SampledPairs(
        codes, contains(positives, codes).astype(np.float32), weights[order].astype(np.float32)
    )
