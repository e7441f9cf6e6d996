"""Measures rankings over the full catalogue, user by user, with bootstrap intervals over users."""

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
            ``ndcg@10`` (binary gain), ``recall@10``, ``recall@50`` (found positives ÷ positives),
            ``hit_rate@10`` (1 if any of ten is a positive), ``novelty@10`` (mean of -log2 of the share of the
            users who had the item: bits; 0 for what everybody has).
        coverage: Share of the items that are in some user's first ten.
    """

    per_user: Mapping[str, NDArray[np.float64]]
    coverage: float

    def means(self, among: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Mean of each measure over the users (or some of them) that have a positive; 0 if none has."""
        return {
            name: _mean(values if among is None else values[among]) for name, values in self.per_user.items()
        }

    def intervals(self, seed: int, among: NDArray[np.bool_] | None = None) -> dict[str, list[float]]:
        """95 % interval of each mean: percentiles of means over resampled users."""
        chosen = [values if among is None else values[among] for values in self.per_user.values()]
        return dict(zip(self.per_user, _intervals(np.stack(chosen), seed), strict=True))

    def gain_over(self, other: RankingQuality, measure: str, seed: int, percent: float = 95.0) -> list[float]:
        """Interval of the mean difference to another method on the same users (paired)."""
        return _intervals((self.per_user[measure] - other.per_user[measure])[None], seed, percent)[0]

    def resampled_gain(self, other: RankingQuality, measure: str, seed: int) -> NDArray[np.float64]:
        """Mean differences to another method over resampled users: float64[:data:`RESAMPLES`]."""
        return _resampled((self.per_user[measure] - other.per_user[measure])[None], seed)[:, 0]


def measure(
    ranked: NDArray[np.int64], positives: NDArray[np.int64], shares: NDArray[np.float64]
) -> RankingQuality:
    """Measure a ranking.

    Args:
        ranked: int64[users, at least 1]: item positions, best first; -1 where a list has ended.
        positives: Sorted codes ``user row * items + item position``.
        shares: float64[items]: share of the users who had each candidate, above 0.
    """
    users, items = len(ranked), len(shares)
    rows = np.arange(users)[:, None] * items
    hits = contains(positives, rows + np.maximum(ranked, 0)) & (ranked >= 0)
    wanted = np.bincount(positives // items, minlength=users)
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(wanted, 10)]
    ten = hits[:, :10]
    denominator = np.where(wanted > 0, wanted, np.nan)
    measured = ranked[wanted > 0, :10]
    listed = ranked[:, :10] >= 0
    bits = np.where(listed, -np.log2(shares)[np.maximum(ranked[:, :10], 0)], 0.0)
    novelty = np.where(listed.any(axis=1), bits.sum(axis=1) / np.maximum(listed.sum(axis=1), 1), np.nan)
    return RankingQuality(
        {
            "ndcg@10": (ten * discount[: ten.shape[1]]).sum(axis=1) / ideal,
            "recall@10": ten.sum(axis=1) / denominator,
            "recall@50": hits[:, :50].sum(axis=1) / denominator,
            "hit_rate@10": np.where(wanted > 0, ten.any(axis=1), np.nan),
            "novelty@10": np.where(wanted > 0, novelty, np.nan),
        },
        len(np.unique(measured[measured >= 0])) / items,
    )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _intervals(values: NDArray[np.float64], seed: int, percent: float = 95.0) -> list[list[float]]:
    """Of each row [measures, users]; a user who lacks one measure is left out of all."""
    around = [50 - percent / 2, 50 + percent / 2]
    bounds: list[list[float]] = np.percentile(_resampled(values, seed), around, axis=0).T.tolist()
    return bounds


def _resampled(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Means of each row over resampled users: float64[resamples, measures]; 0 where there is no user."""
    known = values[:, ~np.isnan(values).any(axis=0)].T
    if not len(known):
        return np.zeros((RESAMPLES, len(values)))
    rng = np.random.default_rng(seed)
    return np.array([known[rng.integers(0, len(known), len(known))].mean(axis=0) for _ in range(RESAMPLES)])
