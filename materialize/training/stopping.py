"""When a boosting ends, and what it then has given: pure functions of its learning curve, so that they survive a restart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True)
class Boosted:
    """What boosting gave.

    Attributes:
        booster: All rounds that ran.
        rounds: Those that count: up to the best one on the validation rows, or all.
        curve: The metric on the validation rows (else on the training rows), per round.
        behind: Whether it was given up, because others had been better by then.
    """

    booster: xgboost.Booster
    rounds: int
    curve: list[float]
    behind: bool = False


@dataclass(frozen=True)
class Stopping:
    """When boosting ends before its last round; a pure function of the curve, so that it survives a restart.

    Attributes:
        patience: Rounds without a better metric; ``None``: never.
        rising: Whether more is better.
        limits: What the best metric up to a round must reach, by round, lest boosting be given up; NaN, and beyond the
            last: anything will do.
    """

    patience: int | None
    rising: bool
    limits: tuple[float, ...] = ()

    def best(self, curve: list[float]) -> int:
        """The first round, from 0, with the best metric."""
        return curve.index(max(curve) if self.rising else min(curve))

    def ends(self, curve: list[float]) -> bool:
        """Whether the round that gave the last value of the curve is the last one."""
        weary = self.patience is not None and len(curve) - 1 - self.best(curve) >= self.patience
        return weary or self.behind(curve)

    def behind(self, curve: list[float]) -> bool:
        """Whether the best metric so far is worse than the limit of the last round."""
        limit = self.limits[len(curve) - 1] if len(curve) <= len(self.limits) else math.nan
        best = curve[self.best(curve)]
        return best < limit if self.rising else best > limit

    def boosted(self, booster: xgboost.Booster, curve: list[float]) -> Boosted:
        """What boosting gave; the booster says which of its rounds was the best, as XGBoost's own early stopping does."""
        if self.patience is None:
            return Boosted(booster, booster.num_boosted_rounds(), curve)
        booster.set_attr(best_iteration=str(self.best(curve)))
        return Boosted(booster, self.best(curve) + 1, curve, self.behind(curve))
