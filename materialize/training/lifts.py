"""Lifts what is near or popular, mostly among the items that are new to a user, by trees that are added to a forest's.

A forest's leaves order coarsely where it has seen few positives: among the items that a user never had, and among
films of which a window knows some hundred viewers. A baseline that looks at one number alone keeps its fine order. So
that number enters as a margin: trees that give nothing to a pair with a history, and to any other one the more the
nearer or the more popular the item is; or, where habits are chance, to every pair by popularity. Which of these, and
how much, several windows decide, and all must agree.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import reduce
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
    from materialize.training.evaluate import EvaluationTask
    from materialize.training.past_windows import MeasuredWindow

NEAR, NEAR_WEIGHT = ("pair_ease", "pair_knn", "pair_tifu"), 2.0
"""One of these may lift; log-odds that the nearest of all pairs gains."""

POPULAR_WEIGHTS = (0.5, 1.0)
"""Log-odds per log of an item's share of all events lately, or of all users ever."""

LOSS_COUNTS = 5
"""A relative loss as served outweighs a gain on new items so many times as large; a gain as served counts once."""

_MOST_PAIRS = 200_000


@dataclass(frozen=True)
class Lift:
    """What pairs gain by one feature, in log-odds.

    Attributes:
        column: The feature.
        weight: Factor of the gain.
        shape: From values of the feature, missing ones 0, and the unit, to gains.
        unit: What values are measured in.
        level: What is subtracted, so that the best new items keep their margins, lest they crowd out habits.
        everywhere: Whether pairs with a history gain, too.
    """

    column: str
    weight: float
    shape: Callable[[NDArray[np.floating], float], NDArray[np.floating]]
    unit: float
    level: float
    everywhere: bool = False

    def gains(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Log-odds, by values of the feature; NaN: missing."""
        return self.weight * (self.shape(np.nan_to_num(values), self.unit) - self.level)

    def __str__(self) -> str:
        return f"{self.column} × {self.weight:g}{' everywhere' if self.everywhere else ''}"


def near(build: FeatureBuild, column: str, weight: float) -> Lift:
    """By the root of a score of nearness, up to somewhat beyond that of the nearest in a hundred."""
    events, score = _pairs(build, column)
    known = np.maximum(score[np.isnan(events) & ~np.isnan(score)], 0)
    unit = float(np.quantile(known, 0.99)) if len(known) else 0.0
    unit = unit or 1.0
    level = float(np.quantile(_nearness(known, unit), 0.95)) if len(known) else 0.0
    return Lift(column, weight, _nearness, unit, level)


def popular(build: FeatureBuild, column: str, weight: float, *, everywhere: bool = False) -> Lift:
    """By the logarithm of an item's share."""
    shares = np.nan_to_num(build.read_items([column])[column].to_numpy().astype(np.float64))
    some = shares[shares > 0]
    unit = float(some.min()) / 2 if len(some) else 1.0
    level = float(np.sort(_popularity(shares, unit))[-min(10, len(shares))])
    return Lift(column, weight, _popularity, unit, level, everywhere)


def _nearness(values: NDArray[np.floating], unit: float) -> NDArray[np.floating]:
    return np.asarray(np.minimum(np.sqrt(np.maximum(values, 0) / unit), 1.5))


def _popularity(values: NDArray[np.floating], unit: float) -> NDArray[np.floating]:
    return np.asarray(np.log(np.maximum(values, unit)))


def _pairs(build: FeatureBuild, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Events and scores of some pairs, evenly chosen; NaN is missing."""
    pairs = build.read_pairs(columns=["pair_events", column])
    events, score = (pairs[name].to_numpy().astype(np.float64) for name in ("pair_events", column))
    chosen = np.arange(0, len(score), max(1, len(score) // _MOST_PAIRS))
    return events[chosen], score[chosen]


def trees_of(lift: Lift, build: FeatureBuild, schema: FeatureSchema) -> xgboost.Booster:
    """Trees whose margin is what pairs gain: nothing with a history, unless it lifts everywhere.

    Args:
        lift: What is given.
        build: Says what values there are.
        schema: Columns of the booster.
    """
    if lift.column.startswith("pair_"):
        events, values = _pairs(build, lift.column)
        events, values = np.append(events, np.nan), np.append(values, np.nan)
    else:
        shares = np.unique(build.read_items([lift.column])[lift.column].to_numpy().astype(np.float64))
        # With any number of events the gain is the same.
        events, values = np.repeat([np.nan, 1.0, 1e6], len(shares)), np.tile(shares, 3)
    wanted = np.where(np.isnan(events) | lift.everywhere, lift.gains(values), 0.0)
    matrix = input_matrix({"pair_events": events, lift.column: values}, wanted, schema)
    return xgboost.train({**FIT, "max_depth": 8, "base_score": 0.0}, matrix, 12)


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


class _Shortlist:
    """The best pairs of a window by a forest alone, to be ordered anew: trees need not be made for each attempt.

    Args:
        task: The window.
        top: A forest's lists.
        wanted: Sorted codes of what would have been right.
        columns: Features that pairs may be lifted by.
    """

    def __init__(
        self, task: EvaluationTask, top: TopK, wanted: NDArray[np.int64], columns: Sequence[str]
    ) -> None:
        self._wanted, self._shares, self._index = (
            wanted,
            task.history.shares(),
            top.item_index.astype(np.int64),
        )
        self._scores = np.where(top.item_index >= 0, top.scores, -np.inf)
        item = np.maximum(self._index, 0)
        codes = np.arange(len(item))[:, None] * len(task.space.items) + item
        self._new = ~contains(task.seen, codes)
        paired = [name for name in columns if name.startswith("pair_")]
        pairs = task.build.read_pairs(task.hashes, [USER_ID, ITEM_ID, *paired])
        place, known = task.space.places(pairs)
        order = np.argsort(place)
        there = contains(place[order], codes)
        found = np.flatnonzero(known)[order][np.searchsorted(place[order], codes[there])]
        items = task.build.read_items([name for name in columns if name not in paired])
        self._values: dict[str, NDArray[np.float32]] = {}
        for name in columns:
            if name in paired:
                self._values[name] = np.full(codes.shape, np.nan, np.float32)
                self._values[name][there] = pairs[name].to_numpy()[found]
            else:
                self._values[name] = items[name].to_numpy()[item]

    def ndcg(self, lifts: Sequence[Lift]) -> float:
        """Mean NDCG@10."""
        scores = self._scores
        for lift in lifts:
            gains = lift.gains(self._values[lift.column])
            scores = scores + (gains if lift.everywhere else np.where(self._new, gains, 0.0))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        ranked = np.take_along_axis(self._index, order, axis=1)
        return measure(ranked, self._wanted, self._shares).means()["ndcg@10"]


def _shortlists(window: MeasuredWindow, columns: Sequence[str]) -> list[_Shortlist]:
    """That of the lists as served, and that of new items; one and the same where what was seen is left out."""
    task, model = window.task, window.methods["model"]
    if model.top is None or model.top_new is None:
        raise ValueError("lists of a model are wanted")
    new = _Shortlist(task, model.top_new, task.new_positives(), columns)
    return [new] if task.exclude_seen else [_Shortlist(task, model.top, task.positives, columns), new]


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
    shares = (recent_share(settings), "item_user_share")
    liked = [
        popular(build, column, weight, everywhere=everywhere)
        for column in shares
        for weight in POPULAR_WEIGHTS
        for everywhere in ((False,) if windows[-1].task.exclude_seen else (False, True))
    ]
    columns = [*(lift.column for lift in nearest), *shares]
    shortlists = [_shortlists(window, columns) for window in windows]
    plain = [[part.ndcg(()) for part in parts] for parts in shortlists]

    def gains(lifts: tuple[Lift, ...]) -> list[float]:
        found = [[part.ndcg(lifts) for part in parts] for parts in shortlists]
        return [_worth(before, after) for before, after in zip(plain, found, strict=True)]

    choices = [
        tuple(lift for lift in pair if lift is not None)
        for pair in itertools.product([None, *nearest], [None, *liked])
    ]
    agreed = [(np.mean(found), lifts) for lifts in choices if min(found := gains(lifts)) >= 0]
    _, best = max(agreed, key=lambda entry: entry[0])
    over = f"over {len(windows)} windows" if len(windows) > 1 else "on the window"
    if not best:
        return list(windows), forests[-1], Choice("lift", "none", f"no lift of new items ranks better {over}")
    more = [trees_of(lift, build, schema) for lift in best]
    boosters = [reduce(joined, more, forest) for forest in forests]
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
    gains = [(b - a) / max(a, 1e-9) for a, b in zip(before, after, strict=True)]
    served, new = gains[0], gains[-1]
    return new + served * (LOSS_COUNTS if served < 0 else 1)
