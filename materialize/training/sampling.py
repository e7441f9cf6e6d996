"""Samples the pairs to train on: all positives, and few of the many others, weighted.

The pairs of a window are far too many (2,000 users times 14,000 items), and nearly all of them are
negatives. They are drawn per user from three strata: items that the user had, neighbours of these
(collaborative pair features), and all others; the first two are the ones that are hard to tell from
positives. A drawn pair stands for several of its stratum: its weight is the inverse of the probability to
be drawn. So the sample's weighted loss estimates the loss over all pairs, and scores stay comparable
between users. Weights of several hundred need ``max_delta_step=1`` in XGBoost: without it, weighted
logistic loss collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materialize.training.pair_codes import PairCodes, contains, distinct, united, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_NEGATIVES_PER_USER = 50
"""Users with few positives get so many draws from all items all the same, and weights stay bounded."""

MIN_NEAR_PER_USER = 25
"""Likewise from each stratum of items that have pair features."""


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
    strata: Sequence[NDArray[np.int64]],
    *,
    excluded: NDArray[np.int64],
    negatives_per_positive: int,
    rng: np.random.Generator,
) -> SampledPairs:
    """Sample the pairs of one label window.

    Args:
        space: Users (each with a positive) and candidate items.
        positives: Codes of pairs with the event that is to be predicted, sorted.
        strata: Sorted codes of pairs with pair features, of one kind each; kinds share none. Of each, a user
            gets as many negatives as positives, at least :data:`MIN_NEAR_PER_USER`, if there are so many.
        excluded: Codes of pairs that are never listed, sorted: they are in no sample, whatever else they are.
        negatives_per_positive: Uniform draws per positive of a user, at least
            :data:`MIN_NEGATIVES_PER_USER`, among all other pairs.
        rng: Source of every draw.

    Returns:
        Every user's rows stand for all items that may be listed: its weights sum to their number, but for
        users whose draws all failed.
    """
    items = len(space.items)
    per_user = space.per_user(positives)
    wanted = without(positives, excluded)
    parts = [(wanted, np.ones(len(wanted)))]
    taken = united(positives, excluded)
    for stratum in strata:
        parts.append(_draw(space, without(stratum, taken), np.maximum(per_user, MIN_NEAR_PER_USER), rng))
        taken = united(taken, stratum)
    free = items - space.per_user(taken)
    draws = np.minimum(np.maximum(per_user * negatives_per_positive, MIN_NEGATIVES_PER_USER), 4 * free)
    drawn = np.repeat(np.arange(len(space.users)), draws) * items + rng.integers(0, items, int(draws.sum()))
    drawn = without(distinct(drawn), taken)
    weight = free / np.maximum(space.per_user(drawn), 1)
    parts.append((drawn, weight[drawn // items]))
    codes = np.concatenate([part for part, _ in parts])
    weights = np.concatenate([weights for _, weights in parts])
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    return SampledPairs(
        codes, contains(positives, codes).astype(np.float32), weights[order].astype(np.float32)
    )


def _draw(
    space: PairCodes, codes: NDArray[np.int64], draws: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each user's codes (sorted) so many without replacement, and how many each stands for."""
    users = codes // len(space.items)
    sizes = space.per_user(codes)
    shuffled = np.lexsort((rng.random(len(codes)), users))
    firsts = np.cumsum(sizes) - sizes
    chosen = np.sort(shuffled[np.arange(len(codes)) - firsts[users] < draws[users]])
    return codes[chosen], np.maximum(1.0, (sizes / np.maximum(draws, 1))[users[chosen]])
