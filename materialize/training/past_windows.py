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
from materialize.training.metrics import RankingQuality

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
        gain: What it gains over the forest: mean difference over the users of all windows.
        wins: Whether that is hardly chance.
    """

    name: str
    gain: float
    wins: bool


def best_baseline(windows: Sequence[MeasuredWindow], part: Part, seed: int) -> BestBaseline:
    """Find the best baseline, as served or on new items, and hold it against the forest."""
    found = {name: pooled(windows, name, part) for name in windows[0].methods}
    forest = found.pop("model")
    name = max(found, key=lambda name: found[name].means()["ndcg@10"])
    low, _ = found[name].gain_over(forest, "ndcg@10", seed, LIKELY)
    return BestBaseline(name, found[name].means()["ndcg@10"] - forest.means()["ndcg@10"], low > 0)


def pooled(windows: Sequence[MeasuredWindow], method: str, part: Part) -> RankingQuality:
    """A method's quality for the users of all windows, one after the other."""
    parts: list[RankingQuality] = [getattr(window.methods[method], part) for window in windows]
    together = {name: np.concatenate([part.per_user[name] for part in parts]) for name in parts[0].per_user}
    return RankingQuality(together, max(part.coverage for part in parts))


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
