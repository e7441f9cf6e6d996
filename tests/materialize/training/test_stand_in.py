"""A forest that ranks as a baseline does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xgboost

from features.schema import USER, FeatureColumn
from materialize.training.baselines import simple_baselines
from materialize.training.evaluate import EvaluationTask, evaluate_baseline, evaluate_model
from materialize.training.past_windows import MeasuredWindow, neighbour_baselines
from materialize.training.stand_in import forest_or_stand_in, new_items_choice, trees_of

if TYPE_CHECKING:
    from materialize.settings import Settings


BASELINES = (
    "popularity",
    "recent_popularity",
    "own_decayed_frequency",
    "pair_knn",
    "pair_ease",
    "pair_als",
    "pair_tifu",
)


@pytest.mark.parametrize("name", BASELINES)
def test_trees_rank_about_as_the_baseline_does(task: EvaluationTask, settings: Settings, name: str) -> None:
    schema = task.build.schema
    town = FeatureColumn("user_town", USER, ("north", "south"))
    assert trees_of(
        name, task, replace(schema, columns=(town, *schema.columns)), settings.features
    ).num_boosted_rounds()
    baselines = {**simple_baselines(task.history), **neighbour_baselines(task)}
    baseline = evaluate_baseline(task, baselines[name]).served.means()
    booster = trees_of(name, task, schema, settings.features)
    trees = evaluate_model(task, booster, schema)
    # Half-lives and windows are those of the features: near the baseline's own.
    assert trees.served.means()["ndcg@10"] == pytest.approx(baseline["ndcg@10"], rel=0.1)
    assert not trees.log_odds


def test_a_baseline_that_wins_over_the_windows_stands_in_and_no_other(
    task: EvaluationTask, settings: Settings
) -> None:
    schema = task.build.schema
    rng = np.random.default_rng(0)
    noise = xgboost.DMatrix(
        rng.random((400, len(schema.columns))), label=rng.random(400) < 0.5, feature_names=schema.names
    )
    bad = xgboost.train({"objective": "binary:logistic"}, noise, 3)
    beaten = MeasuredWindow.of(task, bad, schema)
    assert set(beaten.methods) == {"model", *BASELINES}
    published = forest_or_stand_in([beaten, beaten], bad, schema, settings.features, 0)
    assert published.choice.value == "own_decayed_frequency"
    assert "over 2 windows" in published.choice.reason
    ours, forest = (published.methods[name].served.means()["ndcg@10"] for name in ("model", "forest"))
    assert ours > forest == beaten.methods["model"].served.means()["ndcg@10"]
    assert new_items_choice([beaten], 0).value == "forest"  # the shop's novelties are bought at random
    good = MeasuredWindow.of(task, published.booster, schema)
    kept = forest_or_stand_in([good], published.booster, schema, settings.features, 0)
    assert (kept.choice.value, kept.booster, set(kept.methods)) == (
        "none",
        published.booster,
        {"model", *BASELINES},
    )
