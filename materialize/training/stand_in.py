"""Puts a forest that ranks as a baseline does in the place of one that the baseline has beaten.

A label window can be unusual, a holiday or the days after a change of the shop, and a forest trained on it then
loses to plain popularity. What is published must not be worse than a list that needs no training: so the
baseline's score, which is a feature, is turned into trees. They go through scoring, gates and look-up like others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xgboost

from features.definitions.pair_totals import label
from features.schema import ITEM_ID
from materialize.training.choices import Choice
from materialize.training.evaluate import against_best, evaluate_model
from materialize.training.history import HALF_LIFE_DAYS, RECENT_DAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from features.settings import FeatureSettings
    from materialize.training.evaluate import EvaluationTask, MethodQuality

_MOST_PAIRS = 200_000
_FIT = {
    "objective": "reg:squarederror",
    "tree_method": "hist",  # the exact method knows no categories
    "max_bin": 65_536,  # a bin per value: the first ten must not share one
    "max_depth": 10,
    "eta": 0.5,
    "lambda": 0,
    "min_child_weight": 0,
    "nthread": 1,
    "verbosity": 0,
}


def stand_in_for(
    task: EvaluationTask,
    methods: Mapping[str, MethodQuality],
    schema: FeatureSchema,
    settings: FeatureSettings,
    seed: int,
) -> tuple[Choice, xgboost.Booster | None, MethodQuality | None]:
    """Find out whether a baseline ranks better than the model as served, beyond chance, and make trees of it if so.

    Args:
        task: Has the features to learn the baseline's order from, and measures the trees.
        methods: Quality of ``model`` and of the simple baselines.
        schema: Columns of the model; those of the stand-in too.
        settings: Windows and half-lives, which name the columns.
        seed: Of the resampling.

    Returns:
        The choice; and the trees with their quality, if they rank better than the model.
    """
    found = against_best(methods, seed)["served"]
    name = found["baseline"]
    if found["verdict"] != "worse":
        return (
            Choice("stand_in", "none", f"no baseline ranks better than the forest: best is {name}"),
            None,
            None,
        )
    booster = trees_of(name, task, schema, settings)
    quality = evaluate_model(task, booster, schema)
    ours, theirs = (q.served.means()["ndcg@10"] for q in (methods["model"], quality))
    fact = f"NDCG@10 {theirs:.4f} as trees, the forest {ours:.4f}"
    if theirs <= ours:
        return Choice("stand_in", "none", f"{name} ranks better, but not as trees: {fact}"), None, None
    return (
        Choice("stand_in", name, f"it ranks better than the forest on the window: {fact}"),
        booster,
        quality,
    )


def trees_of(
    name: str, task: EvaluationTask, schema: FeatureSchema, settings: FeatureSettings
) -> xgboost.Booster:
    """Trees whose margin orders items as a simple baseline does.

    Args:
        name: ``popularity``, ``recent_popularity`` or ``own_decayed_frequency``.
        task: Its build has the features.
        schema: Columns of the booster.
        settings: Windows and half-lives, which name the columns.
    """
    recent = f"item_event_share_{label(min(settings.windows_days, key=lambda days: abs(days - RECENT_DAYS)))}"
    decayed = (
        f"pair_decayed_{label(min(settings.half_lives_days, key=lambda days: abs(days - HALF_LIFE_DAYS)))}"
    )
    column = "item_user_share" if name == "popularity" else recent
    items = task.build.read_items([ITEM_ID, column])
    shares = np.nan_to_num(items[column].to_numpy().astype(np.float64))
    values = {column: shares}
    wanted = shares / (shares.max(initial=0.0) or 1.0)
    if name == "own_decayed_frequency":
        pairs = task.build.read_pairs(columns=[ITEM_ID, decayed])
        had = np.flatnonzero(pairs[decayed].is_valid().to_numpy())
        chosen = had[:: max(1, len(had) // _MOST_PAIRS)]
        counts = pairs[decayed].to_numpy()[chosen].astype(np.float64)
        nothing = np.full(len(shares), np.nan)
        values = {decayed: np.concatenate([nothing, counts]), column: np.concatenate([shares, 0 * counts])}
        # What the user had lies above all that they had not, whatever its popularity.
        wanted = np.concatenate([wanted, 2 + np.log1p(counts)])
    matrix = np.full((len(wanted), len(schema.columns)), np.nan, np.float32)
    for name_of, column_values in values.items():
        matrix[:, schema.names.index(name_of)] = column_values
    return xgboost.train(_FIT, _matrix(matrix, wanted, schema), 30)


def _matrix(
    values: NDArray[np.float32], wanted: NDArray[np.float64], schema: FeatureSchema
) -> xgboost.DMatrix:
    return xgboost.DMatrix(
        values,
        label=wanted,
        feature_names=schema.names,
        feature_types=[column.feature_type for column in schema.columns],
        enable_categorical=True,
    )
