"""Trees that lift what is near or popular."""

import numpy as np
import pyarrow.compute as pc
import pytest
import xgboost

from features.training_set import training_matrix
from materialize.settings import Settings
from materialize.training.evaluate import EvaluationTask
from materialize.training.lifts import joined, lifted, near, popular, trees_of
from materialize.training.past_windows import MeasuredWindow


@pytest.fixture(scope="module")
def forest(task: EvaluationTask) -> xgboost.Booster:
    """Habits, and nothing else: a pair with more events has a higher margin."""
    rng = np.random.default_rng(0)
    names = task.build.schema.names
    values = np.full((2000, len(names)), np.nan, np.float32)
    values[:1000, names.index("pair_events")] = rng.integers(1, 30, 1000)
    labels = rng.random(2000) < np.nan_to_num(values[:, names.index("pair_events")]) / 30
    matrix = xgboost.DMatrix(values, label=labels, feature_names=names)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3}, matrix, 5)


def margins(booster: xgboost.Booster, values: np.ndarray) -> np.ndarray:
    return booster.predict(xgboost.DMatrix(values, feature_names=booster.feature_names), output_margin=True)


def test_joined_boosters_add_up(forest: xgboost.Booster, task: EvaluationTask) -> None:
    rng = np.random.default_rng(1)
    values = rng.random((50, len(task.build.schema.names))).astype(np.float32) * 20
    other = xgboost.train(
        {"base_score": 0.0},
        xgboost.DMatrix(values, label=values[:, 0], feature_names=forest.feature_names),
        4,
    )
    both = joined(forest, other)
    assert margins(both, values) == pytest.approx(margins(forest, values) + margins(other, values), abs=1e-5)
    assert both.num_boosted_rounds() == 9


def test_new_pairs_gain_and_others_stay(task: EvaluationTask) -> None:
    build, schema = task.build, task.build.schema
    pairs = build.read_pairs()
    values = training_matrix(pairs.select(["user_id", "item_id", "event_timestamp"]), [build])
    new = pc.is_null(pairs["pair_events"]).to_numpy(zero_copy_only=False)
    lifts = [near(build, "pair_ease", 2.0), popular(build, "item_user_share", 0.5)]
    difference = np.sum([margins(trees_of(lift, build, schema), values) for lift in lifts], axis=0)
    assert difference[~new] == pytest.approx(0, abs=0.02)
    wanted = [lift.gains(values[new, schema.names.index(lift.column)].astype(float)) for lift in lifts]
    assert difference[new] == pytest.approx(np.sum(wanted, axis=0), abs=0.1)
    liked = popular(build, "item_user_share", 0.5, everywhere=True)
    difference = margins(trees_of(liked, build, schema), values)
    share = values[:, schema.names.index("item_user_share")].astype(float)
    assert difference == pytest.approx(liked.gains(share), abs=0.02)
    assert lifts[0].gains(np.array([0.0]))[0] < lifts[0].gains(np.array([lifts[0].unit]))[0]


def test_the_windows_decide_whether(
    forest: xgboost.Booster, task: EvaluationTask, settings: Settings
) -> None:
    """This forest knows no new item from another, so that any order is better than none."""
    window = MeasuredWindow.of(task, forest, task.build.schema)
    (found,), booster, choice = lifted([window], [forest], task.build.schema, settings.features)
    assert choice.value != "none"
    assert booster is not forest
    before, after = (w.methods["model"].new_items.means()["ndcg@10"] for w in (window, found))
    assert after > before
    (again,), _, twice = lifted([found], [booster], task.build.schema, settings.features)
    assert (twice.value == "none") == (again.methods is found.methods)
