"""Puts a forest that ranks as a baseline does in the place of one that the baseline has beaten.

A label window can be unusual, a holiday or the days after a change of the shop, and a forest trained on it then
loses to plain popularity. What is published must not be worse than a list that needs no training: so the
baseline's score, which is a feature, is turned into trees. They go through scoring, gates and look-up like others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xgboost

from features.definitions.pair_totals import label
from features.schema import ITEM_ID
from materialize.training.choices import Choice
from materialize.training.history import HALF_LIFE_DAYS, RECENT_DAYS
from materialize.training.past_windows import best_baseline, mean_ndcg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from features.settings import FeatureSettings
    from materialize.training.evaluate import EvaluationTask, MethodQuality
    from materialize.training.past_windows import MeasuredWindow

_MOST_PAIRS = 200_000
FIT = {
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
"""Trees that give back a score nearly as it is."""


@dataclass(frozen=True)
class Published:
    """What is published: the forest, or trees that stand in for it.

    Attributes:
        booster: The trees.
        methods: Quality on the last window: that of the booster as ``model``; if others stand in, ``forest`` is what was beaten.
        choice: What was decided, for people.
    """

    booster: xgboost.Booster
    methods: dict[str, MethodQuality]
    choice: Choice


def forest_or_stand_in(
    windows: Sequence[MeasuredWindow],
    forest: xgboost.Booster,
    schema: FeatureSchema,
    settings: FeatureSettings,
    seed: int,
) -> Published:
    """Find out whether a baseline ranks better than the forest as served, over all windows, and make trees of it if so.

    Args:
        windows: Oldest first; the features of the last one are what the trees are fitted to.
        forest: What ranked the last window.
        schema: Columns of the forest; those of the stand-in too.
        settings: Windows and half-lives, which name the columns.
        seed: Of the resampling.
    """
    best = best_baseline(windows, "served", seed)
    over = f"over {len(windows)} windows" if len(windows) > 1 else "on the window"
    fact = f"{over} {best.name} gains {best.gain:+.4f} NDCG@10 over the forest"

    def keep(reason: str) -> Published:
        return Published(forest, windows[-1].methods, Choice("stand_in", "none", reason))

    if not best.wins:
        return keep(f"no baseline ranks better than the forest: {fact}")
    booster = trees_of(best.name, windows[-1].task, schema, settings)
    tried = [window.ranked_by(booster, schema) for window in windows]
    as_trees = mean_ndcg(tried, "model", "served") - mean_ndcg(windows, "model", "served")
    if as_trees <= 0:
        return keep(f"{fact}, but not as trees: {as_trees:+.4f}")
    beaten = windows[-1].methods
    methods = {**tried[-1].methods, "forest": beaten["model"]}
    return Published(booster, methods, Choice("stand_in", best.name, f"{fact}, as trees {as_trees:+.4f}"))


def new_items_choice(windows: Sequence[MeasuredWindow], seed: int) -> Choice:
    """Whether a baseline ranks items that are new to the user better than the forest does: it is a feature then."""
    best = best_baseline(windows, "new_items", seed)
    fact = f"on items new to the user, {best.name} gains {best.gain:+.4f} NDCG@10 over the forest"
    if best.wins:
        return Choice("new_items", best.name, f"{fact}; its score is a feature, habits decide the rest")
    return Choice("new_items", "forest", f"no baseline ranks better: {fact}")


def trees_of(
    name: str, task: EvaluationTask, schema: FeatureSchema, settings: FeatureSettings
) -> xgboost.Booster:
    """Trees whose margin orders items as a baseline does.

    Args:
        name: ``popularity``, ``recent_popularity``, ``own_decayed_frequency``, or a pair feature with a score.
        task: Its build has the features.
        schema: Columns of the booster.
        settings: Windows and half-lives, which name the columns.
    """
    decayed = (
        f"pair_decayed_{label(min(settings.half_lives_days, key=lambda days: abs(days - HALF_LIFE_DAYS)))}"
    )
    popular = "item_user_share" if name == "popularity" else recent_share(settings)
    items = task.build.read_items([ITEM_ID, popular])
    shares = np.nan_to_num(items[popular].to_numpy().astype(np.float64))
    values = {popular: shares}
    wanted = shares / (shares.max(initial=0.0) or 1.0)
    if not name.endswith("popularity"):
        score = decayed if name == "own_decayed_frequency" else name
        pairs = task.build.read_pairs(columns=[ITEM_ID, score])
        had = np.flatnonzero(pairs[score].is_valid().to_numpy())
        chosen = had[:: max(1, len(had) // _MOST_PAIRS)]
        scores = pairs[score].to_numpy()[chosen].astype(np.float64)
        largest = float(np.abs(scores).max(initial=0.0)) or 1.0
        nothing = np.full(len(shares), np.nan)
        values = {score: np.concatenate([nothing, scores]), popular: np.concatenate([shares, 0 * scores])}
        # Pairs with a score lie above all that have none, whatever its popularity; those pushed away lie below.
        placed = np.where(scores > 0, 2 + 3 * np.sqrt(np.abs(scores) / largest), scores / largest - 1)
        wanted = np.concatenate([wanted, placed])
    return xgboost.train(FIT, input_matrix(values, wanted, schema), 30)


def recent_share(settings: FeatureSettings) -> str:
    """The feature that tells recent popularity."""
    days = min(settings.windows_days, key=lambda days: abs(days - RECENT_DAYS))
    return f"item_event_share_{label(days)}"


def input_matrix(
    values: Mapping[str, NDArray[np.float64]], wanted: NDArray[np.float64], schema: FeatureSchema
) -> xgboost.DMatrix:
    """Rows of which only some columns are known, and what trees are to give for each."""
    matrix = np.full((len(wanted), len(schema.columns)), np.nan, np.float32)
    for column, column_values in values.items():
        matrix[:, schema.names.index(column)] = column_values
    return xgboost.DMatrix(
        matrix,
        label=wanted,
        feature_names=schema.names,
        feature_types=[column.feature_type for column in schema.columns],
        enable_categorical=True,
    )
