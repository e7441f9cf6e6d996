"""Gates: what passes, what fails, and what an override does to it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from features.errors import CallerError, GateRejectedError
from materialize.generation.gates import (
    GATES,
    check_overrides,
    gates_after,
    gates_before,
    override,
    refuse_failed,
)
from materialize.generation.measures import NO_SAMPLES, ListMeasures
from materialize.generation.offline_metrics import OfflineMetrics, read_offline_metrics
from materialize.generation.records import GateResult, Generation
from materialize.settings import GateSettings

LIMITS = GateSettings()
CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
GENERATION = Generation(
    id="new", model="picks", model_id="m", feature_cutoff=CUTOFF, k=10, users=100, items=500
)
LIVE = replace(GENERATION, id="live", state="live")
GOOD = ListMeasures(
    rows=1000,
    users=100,
    bad_scores=0,
    constant_lists=0.0,
    concentration=0.3,
    compared_users=50,
    score_shift=0.1,
    churn=0.4,
    samples=NO_SAMPLES,
)
NOT_EVALUATED = OfflineMetrics(None)


def failing(results: list[GateResult]) -> dict[str, float | None]:
    return {r.gate: r.measured for r in results if r.verdict == "failed"}


def after(measures: ListMeasures, **mismatches: int) -> list[GateResult]:
    return gates_after(LIMITS, GENERATION, measures, mismatches=mismatches)


def before(
    metrics: OfflineMetrics, live: OfflineMetrics | None = None, rollbacks: int = 0
) -> list[GateResult]:
    return gates_before(LIMITS, GENERATION, LIVE, metrics, live, rollbacks=rollbacks)


def test_every_gate_is_measured_and_named() -> None:
    results = before(NOT_EVALUATED) + after(GOOD)
    assert sorted(r.gate for r in results) == sorted(GATES)
    assert failing(results) == {}


@pytest.mark.parametrize(
    ("measures", "gate", "measured"),
    [
        (replace(GOOD, users=98), "user_coverage", 0.98),
        (replace(GOOD, bad_scores=1), "finite_scores", 1),
        (replace(GOOD, constant_lists=1.0), "varied_scores", 1),
        (replace(GOOD, concentration=0.95), "concentration", 0.95),
        (replace(GOOD, score_shift=0.6), "score_shift", 0.6),
        (replace(GOOD, score_shift=float("nan")), "score_shift", None),
        (replace(GOOD, churn=1.0), "churn", 1),
    ],
)
def test_a_measure_beyond_its_limit_fails_its_gate_alone(
    measures: ListMeasures, gate: str, measured: float
) -> None:
    assert failing(after(measures)) == {gate: measured}


def test_rows_that_differ_anywhere_fail_and_are_named() -> None:
    results = after(GOOD, files=0, store=-2, table=1)
    assert failing(results) == {"rows": 3}
    assert next(r.reason for r in results if r.gate == "rows") == "store: -2, table: 1"


def test_a_first_generation_has_nothing_to_be_compared_with() -> None:
    first = replace(GOOD, compared_users=0, score_shift=None, churn=None)
    assert failing(after(first)) == {}
    assert failing(gates_before(LIMITS, GENERATION, None, NOT_EVALUATED, None, rollbacks=0)) == {}


def test_few_items_are_not_called_concentrated() -> None:
    few = replace(GENERATION, items=12)
    assert failing(gates_after(LIMITS, few, replace(GOOD, concentration=1.0), mismatches={})) == {}


def test_an_older_cutoff_fails_by_its_hours() -> None:
    older = replace(GENERATION, feature_cutoff=CUTOFF - dt.timedelta(hours=5))
    results = gates_before(LIMITS, older, LIVE, NOT_EVALUATED, None, rollbacks=0)
    assert failing(results) == {"cutoff_order": 5}


def test_what_was_rolled_back_does_not_come_back_by_itself() -> None:
    assert failing(before(NOT_EVALUATED, rollbacks=1)) == {"rolled_back": 1}


@pytest.mark.parametrize(
    ("model", "live", "measured", "reason"),
    [
        (0.30, None, 1.2, "against popularity"),
        (0.20, None, 0.8, "against popularity"),
        (0.30, OfflineMetrics(0.20, {"popularity": 0.10}), 0.6, "against the live model"),
        (0.30, OfflineMetrics(0.90, {"popularity": 0.80}), 1.0666666667, "against the live model"),
        (0.30, OfflineMetrics(None), 1.2, "against popularity"),
    ],
)
def test_the_offline_metric_is_the_lead_over_the_best_baseline(
    model: float, live: OfflineMetrics | None, measured: float, reason: str
) -> None:
    metrics = OfflineMetrics(model, {"popularity": 0.25, "random": 0.0, "own history": 0.1})
    result = before(metrics, live)[-1]
    assert result.measured == pytest.approx(measured)
    assert result.reason == reason
    assert result.verdict == ("passed" if measured >= LIMITS.min_metric_ratio else "failed")


@pytest.mark.parametrize(
    ("most_gain", "verdict"), [(0.01, "passed"), (0.0, "passed"), (-0.01, "failed"), (None, "failed")]
)
def test_a_baseline_that_leads_by_chance_does_not_reject(most_gain: float | None, verdict: str) -> None:
    result = before(OfflineMetrics(0.05, {"popularity": 0.07}, most_gain))[-1]
    assert result.verdict == verdict
    assert ("within chance" in result.reason) == (verdict == "passed")


def test_metrics_are_read_as_training_writes_them() -> None:
    written = {
        "methods": {"model": {"ndcg@10": 0.3, "coverage@10": 1}, "popularity": {"ndcg@10": 0.2}},
        "window": {},
    }
    assert read_offline_metrics(written) == OfflineMetrics(0.3, {"popularity": 0.2})
    paired = {"against_best": {"served": {"baseline": "popularity", "gain": 0.1, "interval": [0.05, 0.15]}}}
    assert read_offline_metrics(written | paired) == OfflineMetrics(0.3, {"popularity": 0.2}, 0.15)
    assert read_offline_metrics({}) == OfflineMetrics(None, {})


def test_an_override_is_recorded_and_lets_through() -> None:
    results = override(after(replace(GOOD, churn=1.0)), {"churn": "new season", "rows": "not needed"})
    assert failing(results) == {}
    verdicts = {r.gate: (r.verdict, r.reason) for r in results}
    assert verdicts["churn"] == ("overridden", "new season")
    assert verdicts["rows"] == ("passed", "")
    refuse_failed("new", results)


def test_a_rejection_says_what_was_measured_and_allowed() -> None:
    with pytest.raises(GateRejectedError, match=r"churn at most 0\.95.*churn 1.*--override churn"):
        refuse_failed("new", after(replace(GOOD, churn=1.0)))


def test_overrides_are_checked() -> None:
    check_overrides({"churn": "new season"})
    with pytest.raises(CallerError, match="no gate 'speed'"):
        check_overrides({"speed": "x"})
    with pytest.raises(CallerError, match="needs a reason"):
        check_overrides({"churn": ""})
