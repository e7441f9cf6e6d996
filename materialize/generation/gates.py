"""Gates: what a generation must satisfy before it is served, each measured against what is allowed.

Two groups: :func:`gates_before` needs no scores and spares the work where it fails; :func:`gates_after`
measures the files that were written (:mod:`materialize.generation.measures`) and what the store holds.
A gate that fails may be overridden by name, with a reason that is recorded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from features.errors import CallerError, GateRejectedError
from materialize.generation.records import GateResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from materialize.generation.measures import ListMeasures
    from materialize.generation.offline_metrics import OfflineMetrics
    from materialize.generation.records import Generation
    from materialize.settings import GateSettings

GATES: Mapping[str, str] = {
    "cutoff_order": "hours by which the cut-off lies before the live generation's",
    "rolled_back": "times that this generation was rolled back",
    "offline_metric": "NDCG@10 in proportion to the best baseline's, or that proportion to the live model's where it is lower",
    "rows": "rows or users that differ between plan, files, scored tables and store",
    "user_coverage": "share of planned users that have a list",
    "finite_scores": "scores that are NaN or infinite",
    "varied_scores": "share of lists whose scores are all the same",
    "concentration": "share of all top-10 places that the 10 commonest items take",
    "score_shift": "Kolmogorov-Smirnov distance between the scores and those of the live generation",
    "churn": "mean share of a user's list that is not in the user's live list",
}
"""Name of every gate, and what it measures."""

MAX_CONSTANT_LISTS = 0.9
LEAST_ITEMS_FOR_CONCENTRATION = 100
"""With fewer items the ten commonest take most places in any good ranking."""


def gates_before(
    limits: GateSettings,
    generation: Generation,
    live: Generation | None,
    metrics: OfflineMetrics,
    live_metrics: OfflineMetrics | None,
    *,
    rollbacks: int,
) -> list[GateResult]:
    """Gates that need no scores.

    Args:
        limits: What is allowed.
        generation: The planned one.
        live: The one that is served.
        metrics: Of the generation's model.
        live_metrics: Of the live generation's model.
        rollbacks: How often this very generation was rolled back.
    """
    behind = 0.0 if live is None else (live.feature_cutoff - generation.feature_cutoff).total_seconds() / 3600
    return [
        _at_most("cutoff_order", max(behind, 0.0), 0, reason="" if live else "first generation"),
        _at_most("rolled_back", float(rollbacks), 0),
        _offline_metric(limits, metrics, live_metrics),
    ]


def gates_after(
    limits: GateSettings, generation: Generation, measures: ListMeasures, *, mismatches: Mapping[str, int]
) -> list[GateResult]:
    """Gates on what was written.

    Args:
        limits: What is allowed.
        generation: The one that was written.
        measures: Of its lists, beside the live ones.
        mismatches: Rows or users that differ, by the pair of places that were compared.
    """
    wrong = ", ".join(f"{place}: {n}" for place, n in mismatches.items() if n)
    few = generation.items < LEAST_ITEMS_FOR_CONCENTRATION
    no_live = "" if measures.compared_users else "no user to compare with"
    return [
        _at_most("rows", float(sum(abs(n) for n in mismatches.values())), 0, reason=wrong),
        _at_least("user_coverage", measures.users / generation.users, limits.min_user_coverage),
        _at_most("finite_scores", float(measures.bad_scores), 0),
        _at_most("varied_scores", measures.constant_lists, MAX_CONSTANT_LISTS),
        _at_most(
            "concentration",
            None if few else measures.concentration,
            limits.max_concentration,
            reason=f"fewer than {LEAST_ITEMS_FOR_CONCENTRATION} items" if few else "",
        ),
        _at_most("score_shift", measures.score_shift, limits.max_score_shift, reason=no_live),
        _at_most("churn", measures.churn, limits.max_churn, reason=no_live),
    ]


def check_overrides(overrides: Mapping[str, str]) -> None:
    """Refuse overrides of gates that do not exist, or without a reason.

    Raises:
        CallerError: Names the gate.
    """
    for gate, reason in overrides.items():
        if gate not in GATES:
            raise CallerError(f"there is no gate {gate!r}", expected=f"one of {', '.join(GATES)}")
        if not reason.strip():
            raise CallerError(f"an override of gate {gate!r} needs a reason", fix="say why it is let through")


def override(results: Sequence[GateResult], overrides: Mapping[str, str]) -> list[GateResult]:
    """The results with failures that are overridden marked so, with their reason."""
    return [
        GateResult(
            gate=r.gate,
            measured=r.measured,
            allowed=r.allowed,
            verdict="overridden",
            reason=overrides[r.gate],
        )
        if r.verdict == "failed" and r.gate in overrides
        else r
        for r in results
    ]


def refuse_failed(generation_id: str, results: Sequence[GateResult]) -> None:
    """Stop where a gate has failed.

    Raises:
        GateRejectedError: With what every failed gate measured and what was allowed.
    """
    failed = [r for r in results if r.verdict == "failed"]
    if failed:
        raise GateRejectedError(
            f"generation {generation_id} was rejected by {len(failed)} of {len(results)} gates; "
            "what is served has not changed",
            expected="; ".join(f"{r.gate} {r.allowed}" for r in failed),
            got="; ".join(
                f"{r.gate} {'nothing' if r.measured is None else format(r.measured, '.4g')}"
                + (f" ({r.reason})" if r.reason else "")
                for r in failed
            ),
            fix=f"mend the data or the model, or let it through with --override {failed[0].gate} --reason '…'",
        )


def _offline_metric(
    limits: GateSettings, metrics: OfflineMetrics, live_metrics: OfflineMetrics | None
) -> GateResult:
    """The worse of two ratios: to the best baseline, and to the live model.

    The live model was measured on an earlier window, which may have been an easier one, so the two models
    are compared by their lead over the best baseline of their own window. A window of few users tells little:
    where the baseline's lead is within chance, it does not reject.
    """
    limit = limits.min_metric_ratio
    if metrics.model is None:
        return _at_least("offline_metric", None, limit, reason="the model was not evaluated")
    lead = metrics.lead
    if lead is None:
        return _at_least("offline_metric", None, limit, reason="no baseline to compare with")
    ratios = {f"against {metrics.best_baseline}": lead}
    if live_metrics is not None and live_metrics.lead:
        ratios["against the live model"] = lead / live_metrics.lead
    worst = min(ratios, key=lambda name: ratios[name])
    if lead < limit and metrics.most_gain is not None and metrics.most_gain >= 0:
        reason = f"{worst}; within chance: the 95 % interval of the gain reaches {metrics.most_gain:+.3f}"
        return _result("offline_metric", ratios[worst], f"at least {limit:g}", passed=True, reason=reason)
    return _at_least("offline_metric", ratios[worst], limit, reason=worst)


def _at_most(gate: str, measured: float | None, limit: float, *, reason: str = "") -> GateResult:
    # Written so that NaN fails.
    passed = measured is None or measured <= limit
    return _result(gate, measured, f"at most {limit:g}", passed=passed, reason=reason)


def _at_least(gate: str, measured: float | None, limit: float, *, reason: str = "") -> GateResult:
    passed = measured is None or measured >= limit
    return _result(gate, measured, f"at least {limit:g}", passed=passed, reason=reason)


def _result(gate: str, measured: float | None, allowed: str, *, passed: bool, reason: str) -> GateResult:
    if measured is not None and math.isnan(measured):
        measured, reason = None, "not a number"  # neither JSON nor every database holds NaN
    if measured is not None:
        measured = float(f"{measured:.9g}")  # the last digits depend on the order in which threads add up
    return GateResult(
        gate=gate, measured=measured, allowed=allowed, verdict="passed" if passed else "failed", reason=reason
    )
