"""Lifts what is near to a user's history among the items that are new to them, by trees that are added to a forest's.

What people repeat is most of what a forest learns from, and it orders new items coarsely: EASE alone may do better
there. So its score enters as a margin: trees that give nothing to a pair with a history, and to any other one the
more the nearer it is. Whether they are added, several windows decide.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import xgboost

from materialize.training.choices import Choice
from materialize.training.past_windows import PARTS, pooled
from materialize.training.stand_in import FIT, input_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.feature_build import FeatureBuild
    from features.schema import FeatureSchema
    from materialize.training.past_windows import MeasuredWindow

SCORE = "pair_ease"
WEIGHT = 2.0
"""Log-odds by which the nearest of all pairs is lifted."""

LOSS_COUNTS = 5
"""A relative loss as served outweighs a gain on new items so many times as large."""

_MOST_PAIRS = 200_000


def lift(
    forest: xgboost.Booster, build: FeatureBuild, schema: FeatureSchema, weight: float
) -> xgboost.Booster:
    """A forest whose margins of new pairs are lifted.

    Args:
        forest: Its margins stay for pairs with a history; among the others, the nearest gain, the rest lose.
        build: Says what scores there are.
        schema: Columns of the forest.
        weight: What the nearest in a hundred gains over a pair without a score.
    """
    pairs = build.read_pairs(columns=["pair_events", SCORE])
    events, score = (pairs[name].to_numpy().astype(np.float64) for name in ("pair_events", SCORE))
    chosen = np.arange(0, len(score), max(1, len(score) // _MOST_PAIRS))
    events, score = events[chosen], score[chosen]
    new = np.isnan(events)
    near = np.sqrt(np.maximum(np.nan_to_num(score), 0))
    top = float(np.quantile(near[new], 0.99)) if new.any() else 0.0
    gain = np.minimum(near / (top or 1.0), 1.5)
    # What is listed are the nearest few: about them the lift is to be even, lest new items crowd out habits.
    level = float(np.quantile(gain[new], 0.95)) if new.any() else 0.0
    wanted = np.where(new, weight * (gain - level), 0.0)
    values = {"pair_events": np.append(events, np.nan), SCORE: np.append(score, np.nan)}
    matrix = input_matrix(values, np.append(wanted, -weight * level), schema)
    return joined(forest, xgboost.train({**FIT, "max_depth": 6, "base_score": 0.0}, matrix, 12))


def joined(first: xgboost.Booster, second: xgboost.Booster) -> xgboost.Booster:
    """A booster whose margins are the sums of those of two with the same columns; objective and base score of the first."""
    document, other = (json.loads(booster.save_raw("json")) for booster in (first, second))
    trees, more = (d["learner"]["gradient_booster"]["model"] for d in (document, other))
    start = len(trees["trees"])
    for number, tree in enumerate(more["trees"], start):
        tree["id"] = number
    trees["trees"] += more["trees"]
    trees["tree_info"] += more["tree_info"]
    trees["iteration_indptr"] += [start + place for place in more["iteration_indptr"][1:]]
    trees["gbtree_model_param"]["num_trees"] = str(len(trees["trees"]))
    return xgboost.Booster(model_file=bytearray(json.dumps(document).encode()))


def lifted(
    windows: Sequence[MeasuredWindow], forests: Sequence[xgboost.Booster], schema: FeatureSchema
) -> tuple[list[MeasuredWindow], xgboost.Booster, Choice]:
    """Lift new items if that ranks better over the windows, as served and on new items together.

    Args:
        windows: Oldest first.
        forests: What ranked each.
        schema: Their columns.

    Returns:
        The windows as ranked by what was chosen, the last window's forest with it, and the choice.
    """
    if SCORE not in schema.names:
        return list(windows), forests[-1], Choice("nearness", 0.0, "there are no neighbours")
    boosters = [lift(forest, windows[-1].task.build, schema, WEIGHT) for forest in forests]
    tried = [window.ranked_by(booster, schema) for window, booster in zip(windows, boosters, strict=True)]
    gains, relative = {}, {}
    for part in PARTS:
        before, after = (pooled(found, "model", part).means()["ndcg@10"] for found in (windows, tried))
        gains[part], relative[part] = after - before, (after - before) / max(before, 1e-9)
    fact = (
        f"NDCG@10 {gains['served']:+.4f} as served, {gains['new_items']:+.4f} on new items, "
        f"over {len(windows)} windows"
    )
    # Habits are not given up for novelties.
    if relative["new_items"] + LOSS_COUNTS * min(relative["served"], 0.0) <= 0:
        reason = f"lifting what is near among new items would give {fact}"
        return list(windows), forests[-1], Choice("nearness", 0.0, reason)
    return (
        tried,
        boosters[-1],
        Choice("nearness", WEIGHT, f"lifting what is near among new items gives {fact}"),
    )
