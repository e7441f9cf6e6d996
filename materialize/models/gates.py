"""What a challenger must satisfy to replace the champion: at least as good, for everybody, beyond what chance explains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from materialize.models.records import PromotionGate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from materialize.training.evaluate import MethodQuality
    from materialize.training.metrics import RankingQuality

METRIC = "ndcg@10"

LEAST_COVERAGE = 0.5
"""A challenger that shows less than this share of the champion's variety has collapsed onto a few items."""

LEAST_USERS = 20
"""A segment of fewer users with a positive is shown and not judged: its interval would be a matter of one or two of them."""


def promotion_gates(
    champion: MethodQuality,
    challenger: MethodQuality,
    segments: Mapping[str, NDArray[np.bool_]],
    seed: int,
) -> list[PromotionGate]:
    """Compare two models that ranked the same candidates for the same users.

    A gate on quality fails where the whole 95 % interval of the challenger's gain, resampled over the users,
    lies below zero: it is worse, and not by chance.

    Args:
        champion: Quality of the present model.
        challenger: Of the one that would replace it.
        segments: bool[users] by name.
        seed: Of the resampling.
    """
    gates = [
        _gain(METRIC, champion.served, challenger.served, seed),
        _gain(f"{METRIC}, new items", champion.new_items, challenger.new_items, seed),
    ]
    for name, among in segments.items():
        parts = (_among(champion.served, among), _among(challenger.served, among))
        gates.append(_gain(f"{METRIC}, {name} users", *parts, seed))
    gates.append(_coverage(champion.served.coverage, challenger.served.coverage))
    return gates


def unseen_gate(seen: Mapping[str, bool]) -> PromotionGate:
    """Neither model may have learned from the window that they are compared on.

    Args:
        seen: By model's role, whether its training may have seen the window.
    """
    knowing = [role for role, known in seen.items() if known]
    reason = ""
    if knowing:
        reason = (
            f"the {' and the '.join(knowing)} may have been trained on the days that they are compared on"
        )
    return PromotionGate(
        gate="unseen window",
        champion=float(seen["champion"]),
        challenger=float(seen["challenger"]),
        measured=float(len(knowing)),
        allowed="at most 0",
        verdict="failed" if knowing else "passed",
        reason=reason,
    )


def _among(quality: RankingQuality, among: NDArray[np.bool_]) -> RankingQuality:
    return replace(quality, per_user={name: values[among] for name, values in quality.per_user.items()})


def _gain(gate: str, champion: RankingQuality, challenger: RankingQuality, seed: int) -> PromotionGate:
    users = int((~np.isnan(champion.per_user[METRIC])).sum())
    old, new = champion.means()[METRIC], challenger.means()[METRIC]
    allowed = "gain of at least 0 within its interval"
    if users < LEAST_USERS:
        return PromotionGate(
            gate=gate,
            champion=old if users else None,
            challenger=new if users else None,
            measured=None,
            allowed=allowed,
            verdict="passed",
            reason=f"{users} users are too few to judge",
        )
    low, high = challenger.gain_over(champion, METRIC, seed)
    return PromotionGate(
        gate=gate,
        champion=old,
        challenger=new,
        measured=high,
        allowed=allowed,
        verdict="passed" if high >= 0 else "failed",
        reason=f"gain {new - old:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {users} users",
    )


def _coverage(champion: float, challenger: float) -> PromotionGate:
    ratio = challenger / champion if champion else None
    return PromotionGate(
        gate="coverage@10",
        champion=champion,
        challenger=challenger,
        measured=ratio,
        allowed=f"at least {LEAST_COVERAGE:g} of the champion's",
        verdict="passed" if ratio is None or ratio >= LEAST_COVERAGE else "failed",
    )
