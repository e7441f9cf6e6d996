"""Measures a saved model anew, beside more baselines than every training does: ``prescore evaluate``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from features.build import build_features
from features.errors import CallerError
from features.sources import open_sources
from materialize.progress import NoProgress, Progress, stage
from materialize.training.baselines import simple_baselines
from materialize.training.collaborative_baselines import collaborative_baselines
from materialize.training.evaluate import (
    EvaluationTask,
    evaluate_baseline,
    evaluate_model,
    evaluation_report,
)
from materialize.training.label_windows import LabelWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings

ALL = ("popularity", "recent_popularity", "own_decayed_frequency", "tifu_knn", "item_knn", "ease", "als")


def compare_bundle(
    settings: Settings, bundle: ModelBundle, against: Sequence[str] = ALL, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a model and baselines on the evaluation window of its training.

    Args:
        settings: The settings it was trained with: the tables are read anew.
        bundle: The model.
        against: Names of baselines, of :data:`ALL`.
        progress: Told of every method.

    Returns:
        The bundle's metrics, measured anew and with these methods.

    Raises:
        CallerError: If a baseline has no such name, or the bundle was not evaluated.
        SourceError: If the tables cannot be read.
    """
    unknown = sorted(set(against) - set(ALL))
    if unknown:
        raise CallerError("no such baseline", expected=", ".join(ALL), got=", ".join(unknown))
    if "window" not in bundle.metrics:
        raise CallerError(f"model {bundle.id} has no evaluation window", fix="train it with 'prescore train'")
    progress = progress or NoProgress()
    window = LabelWindow(
        *(datetime.fromisoformat(bundle.metrics["window"][edge]) for edge in ("start", "end"))
    )
    seed = settings.training.seed
    with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
        build = build_features(settings, window.start, settings.features_path, sources=sources)
        task = EvaluationTask.prepare(sources.events, build, window, exclude_seen=bundle.exclude_seen)
        simple = simple_baselines(task.history)
        others = collaborative_baselines(sources.events, window.start, task.space.items, task.history, seed)
        with stage(progress, "rank by the model") as running:
            running.rows = len(task.space.users) * len(task.space.items)
            methods = {"model": evaluate_model(task, bundle.booster(), bundle.schema)}
        for name in against:
            with stage(progress, f"rank by {name}") as running:
                running.rows = len(task.space.users) * len(task.space.items)
                methods[name] = evaluate_baseline(task, simple[name] if name in simple else others[name]())
    return {**bundle.metrics, **evaluation_report(task, methods, seed)}
