"""A forest that ranks as a baseline does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xgboost

from features.build import build_features
from features.schema import USER, FeatureColumn
from features.sources import open_sources
from materialize.training.baselines import simple_baselines
from materialize.training.evaluate import EvaluationTask, evaluate_baseline, evaluate_model
from materialize.training.label_windows import LabelWindow
from materialize.training.stand_in import stand_in_for, trees_of
from tests.materialize.training.small_tables import CUTOFF

if TYPE_CHECKING:
    from materialize.settings import Settings


@pytest.fixture(scope="module")
def task(settings: Settings) -> EvaluationTask:
    window = LabelWindow(CUTOFF - timedelta(days=28), CUTOFF)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        with open_sources(settings) as sources:
            build = build_features(settings, window.start, settings.features_path, sources=sources)
            return EvaluationTask.prepare(sources.events, build, window, exclude_seen=False)


@pytest.mark.parametrize("name", ["popularity", "recent_popularity", "own_decayed_frequency"])
def test_trees_rank_about_as_the_baseline_does(task: EvaluationTask, settings: Settings, name: str) -> None:
    schema = task.build.schema
    town = FeatureColumn("user_town", USER, ("north", "south"))
    assert trees_of(
        name, task, replace(schema, columns=(town, *schema.columns)), settings.features
    ).num_boosted_rounds()
    baseline = evaluate_baseline(task, simple_baselines(task.history)[name]).served.means()
    booster = trees_of(name, task, schema, settings.features)
    trees = evaluate_model(task, booster, schema)
    # Half-lives and windows are those of the features: near the baseline's own.
    assert trees.served.means()["ndcg@10"] == pytest.approx(baseline["ndcg@10"], rel=0.1)
    assert not trees.log_odds


def test_a_baseline_that_wins_stands_in_and_no_other(task: EvaluationTask, settings: Settings) -> None:
    schema = task.build.schema
    rng = np.random.default_rng(0)
    noise = xgboost.DMatrix(
        rng.random((400, len(schema.columns))), label=rng.random(400) < 0.5, feature_names=schema.names
    )
    bad = evaluate_model(task, xgboost.train({"objective": "binary:logistic"}, noise, 3), schema)
    baselines = {name: evaluate_baseline(task, b) for name, b in simple_baselines(task.history).items()}
    choice, trees, quality = stand_in_for(task, {"model": bad, **baselines}, schema, settings.features, 0)
    assert choice.value == "own_decayed_frequency"
    assert trees is not None
    assert quality is not None
    assert quality.served.means()["ndcg@10"] > bad.served.means()["ndcg@10"]
    again, trees, _ = stand_in_for(task, {"model": quality, **baselines}, schema, settings.features, 0)
    assert (again.value, trees) == ("none", None)
