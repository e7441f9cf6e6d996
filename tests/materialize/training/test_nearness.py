"""Trees that lift what is near."""

import numpy as np
import pyarrow.compute as pc
import pytest
import xgboost

from features.training_set import training_matrix
from materialize.training.evaluate import EvaluationTask
from materialize.training.nearness import WEIGHT, joined, lift, lifted
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


def test_new_pairs_are_lifted_by_nearness_and_others_stay(
    forest: xgboost.Booster, task: EvaluationTask
) -> None:
    pairs = task.build.read_pairs()
    rows = pairs.select(["user_id", "item_id", "event_timestamp"])
    values = training_matrix(rows, [task.build])
    difference = margins(lift(forest, task.build, task.build.schema, 2.0), values) - margins(forest, values)
    new = pc.is_null(pairs["pair_events"]).to_numpy(zero_copy_only=False)
    assert difference[~new] == pytest.approx(0, abs=0.02)
    near = pairs["pair_ease"].to_numpy()[new]
    low, high = np.quantile(near, [0.1, 0.95])
    assert difference[new][near >= high].mean() > difference[new][near <= low].mean() + 0.5


def test_the_windows_decide_whether(forest: xgboost.Booster, task: EvaluationTask) -> None:
    window = MeasuredWindow.of(task, forest, task.build.schema)
    (found,), booster, choice = lifted([window], [forest], task.build.schema)
    assert choice.value in {0.0, WEIGHT}
    before, after = (w.methods["model"].new_items.means()["ndcg@10"] for w in (window, found))
    assert (choice.value > 0) == (booster is not forest) == (found.methods is not window.methods)
    assert after > before if choice.value else after == before
