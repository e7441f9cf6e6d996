"""Compares forests with baselines over several windows together: one window alone can be unusual.

Two windows are ranked in full: the newest training window, by the forest of the older ones (the one whose rounds were
counted there), and the evaluation window, by the forest that is published. What a baseline gains over both, user by
user, decides whether it is let in; see :mod:`materialize.training.stand_in`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from features.schema import ITEM_ID, USER_ID
from materialize.training.baselines import Baseline, SparseScores, simple_baselines
from materialize.training.evaluate import MethodQuality, evaluate_baseline, evaluate_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xgboost

    from features.schema import FeatureSchema
    from materialize.training.evaluate import EvaluationTask

NEIGHBOUR_SCORES = ("pair_knn", "pair_ease", "pair_als", "pair_tifu")
"""Features that are rankers by themselves."""

LIKELY = 80.0
"""A baseline is let in where so much of the distribution of its gain, in the middle, lies above zero."""

Part = Literal["served", "new_items"]
PARTS: tuple[Part, ...] = ("served", "new_items")
"""Lists as they are served, and those of items that are new to the user."""


@dataclass(frozen=True)
class MeasuredWindow:
    """A window, and what ranked it.

    Attributes:
        task: The window.
        methods: ``model``, of a forest that has not seen it, and baselines.
    """

    task: EvaluationTask
    methods: dict[str, MethodQuality]

    @classmethod
    def of(cls, task: EvaluationTask, forest: xgboost.Booster, schema: FeatureSchema) -> MeasuredWindow:
        """Rank by the forest, by the simple baselines and by each score of neighbours alone."""
        baselines = {**simple_baselines(task.history), **neighbour_baselines(task)}
        ranked = {name: evaluate_baseline(task, baseline) for name, baseline in baselines.items()}
        return cls(task, {"model": evaluate_model(task, forest, schema), **ranked})

    def ranked_by(self, forest: xgboost.Booster, schema: FeatureSchema) -> MeasuredWindow:
        """The same window and baselines, with another forest."""
        return replace(self, methods={**self.methods, "model": evaluate_model(self.task, forest, schema)})

    def report(self) -> dict[str, Any]:
        """JSON: ``start``, ``end``, ``users``, and NDCG@10 per method in ``served`` and ``new_items``."""
        return {
            "start": self.task.window.start.isoformat(),
            "end": self.task.window.end.isoformat(),
            "users": len(self.task.space.users),
            **{
                part: {name: getattr(m, part).means()["ndcg@10"] for name, m in self.methods.items()}
                for part in PARTS
            },
        }


@dataclass(frozen=True)
class BestBaseline:
    """The baseline with the best NDCG@10 over all windows.

    Attributes:
        name: Which.
        gain: What it gains over the forest: the mean over the windows, each of which counts alike.
        wins: Whether that is hardly chance.
    """

    name: str
    gain: float
    wins: bool


def best_baseline(windows: Sequence[MeasuredWindow], part: Part, seed: int) -> BestBaseline:
    """Find the best baseline, as served or on new items, and hold it against the forest."""
    names = [name for name in windows[0].methods if name != "model"]
    name = max(names, key=lambda name: mean_ndcg(windows, name, part))
    gain = mean_ndcg(windows, name, part) - mean_ndcg(windows, "model", part)
    gains = [
        getattr(window.methods[name], part).resampled_gain(
            getattr(window.methods["model"], part), "ndcg@10", seed
        )
        for window in windows
    ]
    return BestBaseline(name, gain, bool(np.percentile(np.mean(gains, axis=0), 50 - LIKELY / 2) > 0))


def mean_ndcg(windows: Sequence[MeasuredWindow], method: str, part: Part) -> float:
    """A method's NDCG@10: the mean over the windows, each of which counts alike, however many users it has."""
    found = [getattr(window.methods[method], part).means()["ndcg@10"] for window in windows]
    return float(np.mean(found))


def neighbour_baselines(task: EvaluationTask) -> dict[str, Baseline]:
    """Rankers by one collaborative pair feature alone, named as the feature; none where the build has none."""
    names = [name for name in NEIGHBOUR_SCORES if name in task.build.schema.names]
    pairs = task.build.read_pairs(task.hashes, [USER_ID, ITEM_ID, *names])
    shape = (len(task.space.users), len(task.space.items))
    place, known = task.space.places(pairs)
    return {
        name: SparseScores(
            sp.csr_matrix((np.nan_to_num(pairs[name].to_numpy()[known]), np.divmod(place, shape[1])), shape),
            task.history,
        )
        for name in names
    }
