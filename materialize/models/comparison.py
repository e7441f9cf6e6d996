"""Measures two models side by side: the same window, users and candidates, which neither has learned from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from features.build import build_features
from features.errors import SchemaMismatchError
from features.feature_build import cutoff_time
from features.sources import default_cutoff, open_sources
from materialize.generation.run import check_fit
from materialize.models.gates import promotion_gates, unseen_gate
from materialize.progress import stage
from materialize.training.evaluate import EvaluationTask, evaluate_model
from materialize.training.label_windows import LabelWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.sources import Sources
    from materialize.model_bundle import ModelBundle
    from materialize.models.records import PromotionGate
    from materialize.progress import Progress
    from materialize.settings import Settings


@dataclass(frozen=True)
class Comparison:
    """Two models on one window.

    Attributes:
        window: The days whose events were to be predicted.
        users: Users that were ranked for.
        gates: What each promotion gate measured; none if the champion could not be ranked with.
        unfit: Why it could not.
    """

    window: LabelWindow
    users: int
    gates: Sequence[PromotionGate]
    unfit: str = ""

    @property
    def failed(self) -> list[str]:
        """Names of the gates that failed."""
        return [gate.gate for gate in self.gates if gate.verdict == "failed"]


def compare_models(
    settings: Settings, champion: ModelBundle, challenger: ModelBundle, progress: Progress
) -> Comparison:
    """Rank with both, on the window that the challenger was evaluated on, or else on the newest one.

    Raises:
        SchemaMismatchError: If the challenger does not fit the features of the present settings; before anything is ranked.
        SourceError: If the tables cannot be read, or nothing happened in the window.
    """
    with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
        window = _window(settings, challenger, sources)
        with stage(progress, "features of the window to compare on") as running:
            build = build_features(settings, window.start, settings.features_path, sources=sources)
            running.rows = sum(entry.rows for entry in build.manifest.files.values())
        check_fit(build, challenger)
        try:
            check_fit(build, champion)
        except SchemaMismatchError as error:
            return Comparison(window, 0, (), error.got)
        with stage(progress, "compare champion and challenger", total=2) as running:
            task = EvaluationTask.prepare(sources.events, build, window, exclude_seen=challenger.exclude_seen)
            qualities = []
            for bundle in (champion, challenger):
                qualities.append(evaluate_model(task, bundle.booster(), bundle.schema))
                running.advance(rows=len(task.space.users) * len(task.space.items))
    seen = {
        "champion": _may_have_seen(champion, window),
        "challenger": _may_have_seen(challenger, window),
    }
    gates = promotion_gates(qualities[0], qualities[1], task.segments(), settings.training.seed)
    return Comparison(window, len(task.space.users), [unseen_gate(seen), *gates])


def _window(settings: Settings, bundle: ModelBundle, sources: Sources) -> LabelWindow:
    known = bundle.metrics.get("window")
    if known:
        return LabelWindow(*(datetime.fromisoformat(known[edge]) for edge in ("start", "end")))
    end = default_cutoff(sources)
    return LabelWindow(end - timedelta(days=settings.training.window_days), end)


def _may_have_seen(bundle: ModelBundle, window: LabelWindow) -> bool:
    """Whether events from the window on may have been in a model's training."""
    own = bundle.metrics.get("window")
    if not own and not bundle.lineage.cutoff:  # imported, and nobody said
        return True
    until = datetime.fromisoformat(own["start"]) if own else cutoff_time(bundle.lineage.cutoff)
    return until > window.start
