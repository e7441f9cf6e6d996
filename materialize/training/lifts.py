"""Lifts what is near or popular among the items that are new to a user, by trees that are added to a forest's.

A forest's leaves order coarsely where it has seen few positives: among the items that a user never had, and among
films of which a window knows some hundred viewers. A baseline that looks at one number alone keeps its fine order. So
that number enters as a margin: trees that give nothing to a pair with a history, and to any other one the more the
nearer or the more popular the item is. Which of these, and how much, several windows decide, and all must agree.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xgboost

from features.schema import ITEM_ID, USER_ID
from materialize.training.choices import Choice
from materialize.training.metrics import measure
from materialize.training.pair_codes import contains
from materialize.training.past_windows import PARTS, mean_ndcg
from materialize.training.stand_in import FIT, input_matrix, recent_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild
    from features.schema import FeatureSchema
    from features.settings import FeatureSettings
    from materialize.scoring import TopK
    from materialize.training.evaluate import EvaluationTask, MethodQuality
    from materialize.training.past_windows import MeasuredWindow

NEAR, NEAR_WEIGHT = ("pair_ease", "pair_knn", "pair_tifu"), 2.0
"""One of these may lift; log-odds that the nearest of all pairs gains."""

POPULAR_WEIGHTS = (0.5, 1.0)
"""Log-odds per log of an item's share of all events lately, or of all users ever."""

LOSS_COUNTS = 5
"""A relative loss as served outweighs a gain on new items so many times as large."""

_MOST_PAIRS = 200_000


@dataclass(frozen=True)
class Lift:
    """What pairs without a history gain by one feature, in log-odds.

    Attributes:
        column: The feature.
        weight: Factor of the gain.
        shape: From values of the feature, missing ones 0, and the unit, to gains.
        unit: What values are measured in.
        level: What is subtracted, so that the best new items keep their margins, lest they crowd out habits.
    """

    column: str
    weight: float
    shape: Callable[[NDArray[np.float64], float], NDArray[np.float64]]
    unit: float
    level: float

    def gains(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds, by values of the feature; NaN: missing."""
        return self.weight * (self.shape(np.nan_to_num(values), self.unit) - self.level)

    def __str__(self) -> str:
        return f"{self.column} × {self.weight:g}"


def near(build: FeatureBuild, column: str, weight: float) -> Lift:
    """By the root of a score of nearness, up to somewhat beyond that of the nearest in a hundred."""
    events, score = _pairs(build, column)
    known = np.maximum(score[np.isnan(events) & ~np.isnan(score)], 0)
    unit = float(np.quantile(known, 0.99)) if len(known) else 0.0
    unit = unit or 1.0
    level = float(np.quantile(_nearness(known, unit), 0.95)) if len(known) else 0.0
    return Lift(column, weight, _nearness, unit, level)


def popular(build: FeatureBuild, column: str, weight: float) -> Lift:
    """By the logarithm of an item's share."""
    shares = np.nan_to_num(build.read_items([column])[column].to_numpy().astype(np.float64))
    some = shares[shares > 0]
    unit = float(some.min()) / 2 if len(some) else 1.0
    level = float(np.sort(_popularity(shares, unit))[-min(10, len(shares))])
    return Lift(column, weight, _popularity, unit, level)


def _nearness(values: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    return np.minimum(np.sqrt(np.maximum(values, 0) / unit), 1.5)


def _popularity(values: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    return np.log(np.maximum(values, unit))


def _pairs(build: FeatureBuild, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Events and scores of some pairs, evenly chosen; NaN is missing."""
    pairs = build.read_pairs(columns=["pair_events", column])
    events, score = (pairs[name].to_numpy().astype(np.float64) for name in ("pair_events", column))
    chosen = np.arange(0, len(score), max(1, len(score) // _MOST_PAIRS))
    return events[chosen], score[chosen]


def with_lifts(
    forest: xgboost.Booster, lifts: Sequence[Lift], build: FeatureBuild, schema: FeatureSchema
) -> xgboost.Booster:
    """A forest whose margins of pairs without a history are lifted; the others stay as they are.

    Args:
        forest: Of the schema's columns.
        lifts: What is added.
        build: Says what values there are.
        schema: Columns of the forest.
    """
    for lift in lifts:
        if lift.column.startswith("pair_"):
            events, values = _pairs(build, lift.column)
            events, values = np.append(events, np.nan), np.append(values, np.nan)
        else:
            shares = np.unique(build.read_items([lift.column])[lift.column].to_numpy().astype(np.float64))
            # With any number of events the gain is none.
            events, values = np.repeat([np.nan, 1.0, 1e6], len(shares)), np.tile(shares, 3)
        wanted = np.where(np.isnan(events), lift.gains(values), 0.0)
        matrix = input_matrix({"pair_events": events, lift.column: values}, wanted, schema)
        forest = joined(forest, xgboost.train({**FIT, "max_depth": 8, "base_score": 0.0}, matrix, 12))
    return forest


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


class _Shortlists:
    """The best pairs of a window by a forest alone, to be ordered anew: trees need not be made for each attempt."""

    def __init__(self, task: EvaluationTask, model: MethodQuality, columns: Sequence[str]) -> None:
        self._task, self._shares = task, task.history.shares()
        self._lists: list[tuple[TopK, NDArray[np.int64], NDArray[np.bool_]]] = []
        for top in (model.top, model.top_new):
            if top is not None:
                codes = np.arange(len(top.item_index))[:, None] * len(task.space.items) + np.maximum(
                    top.item_index, 0
                )
                self._lists.append((top, codes, ~contains(task.seen, codes)))
        paired = [name for name in columns if name.startswith("pair_")]
        pairs = task.build.read_pairs(task.hashes, [USER_ID, ITEM_ID, *paired])
        place, known = task.space.places(pairs)
        order = np.argsort(place)
        self._places = place[order]
        self._values = {name: pairs[name].to_numpy()[known][order].astype(np.float64) for name in paired}
        single = [name for name in columns if name not in paired]
        items = task.build.read_items([ITEM_ID, *single])
        self._items = {name: items[name].to_numpy().astype(np.float64) for name in single}

    def ndcg(self, lifts: Sequence[Lift]) -> list[float]:
        """Mean NDCG@10 of the lists as served, and of those of new items."""
        found = []
        for (top, codes, new), wanted in zip(
            self._lists, (self._task.wanted(), self._task.new_positives()), strict=True
        ):
            scores = np.where(top.item_index >= 0, top.scores, -np.inf)
            for lift in lifts:
                scores = scores + np.where(new, lift.gains(self._value(lift.column, codes)), 0.0)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
            ranked = np.take_along_axis(top.item_index, order, axis=1).astype(np.int64)
            found.append(measure(ranked, wanted, self._shares).means()["ndcg@10"])
        return found

    def _value(self, column: str, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        if column in self._items:
            return np.asarray(self._items[column][codes % len(self._task.space.items)], np.float64)
        values: NDArray[np.float64] = np.full(codes.shape, np.nan)
        there = contains(self._places, codes)
        values[there] = self._values[column][np.searchsorted(self._places, codes[there])]
        return values


def lifted(
    windows: Sequence[MeasuredWindow],
    forests: Sequence[xgboost.Booster],
    schema: FeatureSchema,
    settings: FeatureSettings,
) -> tuple[list[MeasuredWindow], xgboost.Booster, Choice]:
    """Lift new items where that ranks better in every window, as served and on new items together.

    Args:
        windows: Oldest first.
        forests: What ranked each.
        schema: Their columns.
        settings: Windows, which name the columns.

    Returns:
        The windows as ranked by what was chosen, the last window's forest with it, and the choice.
    """
    build = windows[-1].task.build
    nearest = [near(build, column, NEAR_WEIGHT) for column in NEAR if column in schema.names]
    shares = [
        popular(build, column, weight)
        for column in (recent_share(settings), "item_user_share")
        for weight in POPULAR_WEIGHTS
    ]
    columns = [lift.column for lift in (*nearest, *shares[:: len(POPULAR_WEIGHTS)])]
    shortlists = [_Shortlists(window.task, window.methods["model"], columns) for window in windows]
    plain = [shortlist.ndcg(()) for shortlist in shortlists]

    def gains(lifts: tuple[Lift, ...]) -> list[float]:
        return [_worth(b, s.ndcg(lifts)) for b, s in zip(plain, shortlists, strict=True)]

    choices = [
        tuple(lift for lift in pair if lift is not None)
        for pair in itertools.product([None, *nearest], [None, *shares])
    ]
    agreed = [(np.mean(found), lifts) for lifts in choices if min(found := gains(lifts)) >= 0]
    _, best = max(agreed, key=lambda entry: entry[0])
    over = f"over {len(windows)} windows" if len(windows) > 1 else "on the window"
    if not best:
        return list(windows), forests[-1], Choice("lift", "none", f"no lift of new items ranks better {over}")
    boosters = [with_lifts(forest, best, build, schema) for forest in forests]
    tried = [window.ranked_by(booster, schema) for window, booster in zip(windows, boosters, strict=True)]
    before, after = ([mean_ndcg(found, "model", part) for part in PARTS] for found in (windows, tried))
    name = " and ".join(map(str, best))
    served, new = (b - a for a, b in zip(before, after, strict=True))
    fact = f"NDCG@10 {served:+.4f} as served, {new:+.4f} on new items, {over}"
    if _worth(before, after) <= 0:
        return list(windows), forests[-1], Choice("lift", "none", f"as trees, {name} would give {fact}")
    return tried, boosters[-1], Choice("lift", name, f"lifting these among new items gives {fact}")


def _worth(before: Sequence[float], after: Sequence[float]) -> float:
    """What a change is worth, by NDCG@10 as served and on new items: habits are not given up for novelties."""
    served, new = ((b - a) / max(a, 1e-9) for a, b in zip(before, after, strict=True))
    return new + LOSS_COUNTS * min(served, 0.0)
