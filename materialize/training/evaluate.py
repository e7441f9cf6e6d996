"""Ranks every candidate for the users of the evaluation window, and compares a model with the baselines.

Nothing is sampled but users, and those only where there are very many: a sampled list of negatives
would rank methods in another order than the full catalogue does. Every method ranks the same candidates
for the same users, once as it would be served and once without what the user has seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SourceError
from features.feature_build import HashRange
from features.schema import ITEM_ID, USER_HASH, USER_ID, user_hash
from materialize.scoring import PairScorer
from materialize.scoring.encode_inputs import no_entries
from materialize.training.baselines import Baseline, rank
from materialize.training.history import History
from materialize.training.label_windows import LabelWindow, pairs_in_window
from materialize.training.metrics import DEPTH, RankingQuality, measure
from materialize.training.pair_codes import PairCodes, contains, without
from materialize.training.score_facts import score_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis.expr.types as ir
    import xgboost
    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild
    from features.schema import FeatureSchema
    from materialize.scoring import TopK

LONGER = 100
"""Length of a model's lists: what is measured, and what else might be lifted into it."""

MOST_USERS = 10_000
"""More users than these are thinned out by their hash; the intervals say what that costs."""


@dataclass(frozen=True)
class EvaluationTask:
    """What is to be ranked and what would have been right.

    Attributes:
        window: Labels; features are as of its start.
        build: The features.
        hashes: Evaluated users are those with a positive in this range.
        space: Evaluated users and candidates.
        positives: Sorted codes of pairs with an event in the window.
        seen: Sorted codes of pairs with an event in the pair history before it: what scoring leaves out, too.
        history: For the baselines.
        exclude_seen: Whether lists leave out what the user has seen; then that is no positive either.
    """

    window: LabelWindow
    build: FeatureBuild
    hashes: HashRange
    space: PairCodes
    positives: NDArray[np.int64]
    seen: NDArray[np.int64]
    history: History
    exclude_seen: bool

    @classmethod
    def prepare(
        cls,
        events: ir.Table,
        build: FeatureBuild,
        window: LabelWindow,
        *,
        exclude_seen: bool,
        most_users: int = MOST_USERS,
    ) -> EvaluationTask:
        """Read labels and history from the events.

        Raises:
            SourceError: If nothing happened in the window that could have been predicted.
        """
        candidates = build.read_items([ITEM_ID])
        labels = pairs_in_window(events, window, candidates)
        users = pc.unique(labels[USER_ID])
        if not len(users):
            raise SourceError(
                "the evaluation window is empty",
                expected="events with candidate items",
                got=f"none from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}",
                fix="choose another cut-off, or lower [candidates] min_events",
            )
        hashes = thin_out(len(users), most_users)
        users = users.filter(pa.array(user_hash(users) < hashes.high))
        space = PairCodes(users, candidates[ITEM_ID].combine_chunks())
        return cls(
            window=window,
            build=build,
            hashes=hashes,
            space=space,
            positives=space.encode(labels),
            seen=space.encode(build.read_seen(hashes)),
            history=History.read(events, window.start, users, space.items),
            exclude_seen=exclude_seen,
        )

    def repeat_share(self) -> float:
        """Share of the positives that the user had before."""
        return float(contains(self.seen, self.positives).mean()) if len(self.positives) else 0.0

    def wanted(self) -> NDArray[np.int64]:
        """Positives of the lists as they are served."""
        return self.new_positives() if self.exclude_seen else self.positives

    def new_positives(self) -> NDArray[np.int64]:
        """Positives that the user had not before."""
        return without(self.positives, self.seen)

    def rank_model(self, booster: xgboost.Booster, schema: FeatureSchema) -> tuple[TopK, TopK]:
        """The model's lists of the evaluated users, in their order: as served, and without what the user has seen; longer than what is measured."""
        catalogue = PairScorer.from_xgboost(booster, schema).bind(self.build.read_items())
        known = self.build.read_users(self.hashes)
        # Users who came after the build have no row: all their features are missing.
        users = known.take(pc.index_in(self.space.users, value_set=known[USER_ID].combine_chunks()))
        users = users.set_column(users.schema.get_field_index(USER_ID), USER_ID, self.space.users)
        batch = catalogue.encode_users(
            users.drop_columns([USER_HASH]),
            affinity={group: self.build.read_affinity(group, self.hashes) for group in schema.groups},
            pairs=self.build.read_pairs(self.hashes),
            exclude=self.space.decode(self.seen),
        )
        depth = min(LONGER, len(self.space.items))
        new = catalogue.top_k_encoded(batch, depth)
        if self.exclude_seen:
            return new, new
        every = replace(batch, excluded=no_entries(len(batch), 0))
        return catalogue.top_k_encoded(every, depth), new

    def rank_baseline(self, baseline: Baseline, *, exclude_seen: bool) -> NDArray[np.int64]:
        """A baseline's lists: int64[users, depth], item positions, -1 past the end."""
        nothing = np.zeros(0, np.int64)
        return rank(
            baseline,
            len(self.space.users),
            len(self.space.items),
            self.seen if exclude_seen else nothing,
            DEPTH,
        )

    def segments(self) -> dict[str, NDArray[np.bool_]]:
        """Users without history, and those with fewer and with more events than the median."""
        events = self.history.events_per_user()
        some = events > 0
        median = float(np.median(events[some])) if some.any() else 0.0
        return {"new": ~some, "light": some & (events <= median), "heavy": events > median}


@dataclass(frozen=True)
class MethodQuality:
    """One method's quality.

    Attributes:
        served: As it would be served.
        new_items: On items that are new to the user, ranked without the others.
        fresh_items: As served, on items that nobody had more than 28 days before.
        top: The lists as served with their scores, of a model.
        top_new: Likewise the lists without what the user has seen.
        log_odds: Whether those scores are log-odds.
    """

    served: RankingQuality
    new_items: RankingQuality
    fresh_items: RankingQuality
    top: TopK | None = None
    top_new: TopK | None = None
    log_odds: bool = False

    @classmethod
    def of(
        cls,
        task: EvaluationTask,
        ranked: NDArray[np.int64],
        ranked_new: NDArray[np.int64],
    ) -> MethodQuality:
        """Measure both rankings of a method."""
        shares, wanted = task.history.shares(), task.wanted()
        fresh = wanted[task.history.fresh[wanted % len(shares)]]
        return cls(
            measure(ranked, wanted, shares),
            measure(ranked_new, task.new_positives(), shares),
            measure(ranked, fresh, shares),
        )

    def report(self, task: EvaluationTask, seed: int) -> dict[str, Any]:
        """JSON: the measures, their ``intervals``, ``new_items``, ``fresh_items`` and ``segments`` of users."""
        return {
            **_part(self.served, seed),
            "new_items": _part(self.new_items, seed),
            "fresh_items": _part(self.fresh_items, seed),
            "segments": {
                name: {
                    "users": int(among.sum()),
                    **self.served.means(among),
                    "intervals": self.served.intervals(seed, among),
                }
                for name, among in task.segments().items()
            },
        }


def _part(quality: RankingQuality, seed: int) -> dict[str, Any]:
    return {
        "users": int((~np.isnan(quality.per_user["ndcg@10"])).sum()),
        **quality.means(),
        "coverage@10": quality.coverage,
        "intervals": quality.intervals(seed),
    }


def evaluate_model(task: EvaluationTask, booster: xgboost.Booster, schema: FeatureSchema) -> MethodQuality:
    """Quality of a model."""
    top, new = task.rank_model(booster, schema)
    ranked, ranked_new = (found.item_index[:, :DEPTH].astype(np.int64) for found in (top, new))
    quality = MethodQuality.of(task, ranked, ranked_new)
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    return replace(quality, top=top, top_new=new, log_odds=objective == "binary:logistic")


def evaluate_baseline(task: EvaluationTask, baseline: Baseline) -> MethodQuality:
    """Quality of a baseline."""
    new = task.rank_baseline(baseline, exclude_seen=True)
    ranked = new if task.exclude_seen else task.rank_baseline(baseline, exclude_seen=False)
    return MethodQuality.of(task, ranked, new)


def against_best(methods: Mapping[str, MethodQuality], seed: int) -> dict[str, Any]:
    """The best baseline by NDCG@10, as served and on new items, and the model's gain over it.

    Args:
        methods: ``model`` and at least one baseline.
        seed: Of the resampling.

    Returns:
        Per ``served`` and ``new_items``: ``baseline``, ``gain`` (difference of the means), ``interval``
        (95 %, resampled over the same users), and ``verdict``: the model is ``better``, ``level`` or ``worse``.
    """
    found = {}
    for part in ("served", "new_items"):
        qualities: dict[str, RankingQuality] = {
            name: getattr(method, part) for name, method in methods.items()
        }
        model = qualities.pop("model")
        best = max(qualities, key=lambda name: qualities[name].means()["ndcg@10"])
        low, high = model.gain_over(qualities[best], "ndcg@10", seed)
        found[part] = {
            "baseline": best,
            "gain": model.means()["ndcg@10"] - qualities[best].means()["ndcg@10"],
            "interval": [low, high],
            "verdict": "better" if low > 0 else "worse" if high < 0 else "level",
        }
    return found


def evaluation_report(
    task: EvaluationTask, methods: Mapping[str, MethodQuality], seed: int
) -> dict[str, Any]:
    """All that was measured.

    Args:
        task: What was ranked.
        methods: ``model`` and at least one baseline.
        seed: Of the resampling.

    Returns:
        JSON: ``window``; ``methods``, see :meth:`MethodQuality.report`; ``against_best``, see :func:`against_best`;
        ``scores``, see :func:`~materialize.training.score_facts.score_facts`.
    """
    model = methods["model"]
    return {
        "window": {
            "start": task.window.start.isoformat(),
            "end": task.window.end.isoformat(),
            "users": len(task.space.users),
            "candidates": len(task.space.items),
            "positives": len(task.positives),
            "repeat_share": task.repeat_share(),
        },
        "methods": {name: method.report(task, seed) for name, method in methods.items()},
        "against_best": against_best(methods, seed),
        "scores": {} if model.top is None else score_facts(task, model.top, probabilities=model.log_odds),
    }


def thin_out(amount: int, most: int) -> HashRange:
    """The range of user hashes that keeps about ``most`` of ``amount`` rows or users; all if they are fewer."""
    return HashRange(0, 2**32 if amount <= most else max(1, 2**32 * most // amount))
