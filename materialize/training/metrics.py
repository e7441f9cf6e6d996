"""Measures rankings: NDCG, recall and coverage over the full catalogue, with bootstrap intervals over users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materialize.training.pair_codes import contains

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

DEPTH = 50
"""Length of the lists that are measured."""

RESAMPLES = 500


@dataclass(frozen=True)
class RankingQuality:
    """Measures of one method.

    Attributes:
        per_user: float64[users] per measure, NaN for users without a positive:
            ``ndcg@10`` (binary gain), ``recall@10``, ``recall@50`` (found positives ÷ positives).
        coverage: Share of the items that are in some user's first ten.
    """

    per_user: Mapping[str, NDArray[np.float64]]
    coverage: float

    def means(self, among: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Mean of each measure over the users (or some of them) that have a positive; 0 if none has."""
        return {
            name: _mean(values if among is None else values[among]) for name, values in self.per_user.items()
        }

    def intervals(self, seed: int) -> dict[str, list[float]]:
        """95 % interval of each mean: percentiles of means over resampled users."""
        return {name: _interval(values, seed) for name, values in self.per_user.items()}

    def gain_over(self, other: RankingQuality, measure: str, seed: int) -> list[float]:
        """95 % interval of the mean difference to another method on the same users (paired)."""
        return _interval(self.per_user[measure] - other.per_user[measure], seed)


def measure(ranked: NDArray[np.int64], positives: NDArray[np.int64], items: int) -> RankingQuality:
    """Measure a ranking.

    Args:
        ranked: int64[users, at least 1]: item positions, best first; -1 where a list has ended.
        positives: Sorted codes ``user row * items + item position``.
        items: Number of candidates.
    """
    users = len(ranked)
    rows = np.arange(users)[:, None] * items
    hits = contains(positives, rows + np.maximum(ranked, 0)) & (ranked >= 0)
    wanted = np.bincount(positives // items, minlength=users)
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(wanted, 10)]
    ten = hits[:, :10]
    denominator = np.where(wanted > 0, wanted, np.nan)
    measured = ranked[wanted > 0, :10]
    return RankingQuality(
        {
            "ndcg@10": (ten * discount[: ten.shape[1]]).sum(axis=1) / ideal,
            "recall@10": ten.sum(axis=1) / denominator,
            "recall@50": hits[:, :50].sum(axis=1) / denominator,
        },
        len(np.unique(measured[measured >= 0])) / items,
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _interval(values: NDArray[np.float64], seed: int) -> list[float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return [0.0, 0.0]
    rng = np.random.default_rng(seed)
    means = [known[rng.integers(0, len(known), len(known))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]
