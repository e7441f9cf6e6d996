"""From the settings and a cut-off to a saved model bundle: windows, features, sample, boosting, evaluation."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from features.build import build_features, fingerprint_of
from features.errors import PrescoreError, SourceError
from features.feature_build import name_of_cutoff
from features.scratch import scratch_folder
from features.sources import Sources, open_sources
from materialize.model_bundle import Lineage, ModelBundle
from materialize.progress import NoProgress, Progress, Stage, stage
from materialize.training.boosting import (
    boost,
    cluster_shape,
    gain_by_feature,
    metric_name,
    model_bytes,
)
from materialize.training.checkpoint import Checkpoint
from materialize.training.choices import Choice, choose_even_users, choose_exclude_seen, told_choices
from materialize.training.evaluate import EvaluationTask, evaluation_report
from materialize.training.label_windows import (
    LabelWindow,
    WindowPlan,
    plan_windows,
)
from materialize.training.lifts import lifted
from materialize.training.past_windows import MeasuredWindow
from materialize.training.read_rows import DISK, choose_place, read_rows
from materialize.training.score_facts import gain_by_scope
from materialize.training.stand_in import Published, forest_or_stand_in, new_items_choice
from materialize.training.tuning import Search, Tuned
from materialize.training.window_labels import read_labels, sample_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xgboost
    from distributed import Client

    from features.feature_build import FeatureBuild
    from features.schema import FeatureSchema
    from materialize.settings import Settings
    from materialize.training.stopping import Boosted
    from materialize.training.training_rows import TrainingRows

log = structlog.get_logger()


def train_model(
    settings: Settings, cutoff: datetime, client: Client, progress: Progress | None = None
) -> ModelBundle:
    """Train on past label windows, evaluate on the last one before the cut-off, save a bundle.

    Args:
        settings: The whole tree.
        cutoff: Whole seconds, with a zone; events at or after it are not seen.
        client: Of a cluster that keeps its workers.
        progress: Told of every stage.

    Returns:
        The bundle that was saved below ``settings.models_path``, or one of the same inputs that was there. Its metrics:
        those of :func:`~materialize.training.evaluate.evaluation_report`; ``validation``: how forest and baselines
        ranked several windows; ``exclude_seen`` and all ``choices`` made from the data, with reasons; ``training``
        with windows, rows, rounds, learning curve and gains.

    Raises:
        SourceError: If the tables cannot be read, or there is nothing to learn or to evaluate.
        RetryableError: If the cluster fails.
    """
    with scratch_folder(settings.models_path / ".scratch") as scratch:
        return _train(settings, cutoff.astimezone(UTC), client, progress or NoProgress(), scratch)


def _train(
    settings: Settings, cutoff: datetime, client: Client, progress: Progress, scratch: Path
) -> ModelBundle:
    with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
        plan = plan_windows(
            cutoff, sources.first_event, days=settings.training.window_days, count=settings.training.windows
        )
        builds = _build_all(settings, sources, plan, progress)
        lineage = _lineage(settings, sources, cutoff, plan, builds, client)
        search = Search.open(settings, _inputs(settings, lineage)) if settings.tuning.trials else None
        tuned = search.finished() if search is not None else None
        if tuned is not None:
            settings, lineage = _apply(tuned, settings, lineage)
        found = _find(settings, lineage) if search is None or tuned is not None else None
        if found is not None:
            log.info("model_reused", model_id=found.id)
            return found
        with stage(progress, "label the windows") as running:
            labels = [
                read_labels(settings, sources.events, w, builds[w], len(plan.training)) for w in plan.training
            ]
            seen, even = choose_exclude_seen(settings, labels), choose_even_users(labels)
            task = EvaluationTask.prepare(
                sources.events, builds[plan.evaluation], plan.evaluation, exclude_seen=seen.value
            )
            validation = None
            if len(labels) > 1 and len(labels[-1].positives):
                # The newest window that is trained on is ranked, too, by the forest of the older ones.
                newest = labels[-1]
                validation = EvaluationTask.prepare(
                    sources.events, newest.build, newest.window, exclude_seen=seen.value
                )
            running.rows = sum(len(label.positives) for label in labels)
    schema = builds[plan.evaluation].schema
    rng = np.random.default_rng(settings.training.seed)
    with stage(progress, "join the training set", total=len(labels)) as running:
        samples = [
            (label, sample_window(settings, label, rng, exclude_seen=seen.value, even_users=even.value))
            for label in labels
        ]
        sizes = [len(sampled.codes) for _, sampled in samples]
        place = choose_place(settings.training, client, sum(sizes), len(schema.columns))
        file = scratch / "rows" if place.value == DISK else None
        rows = read_rows(samples, schema, file, lambda read: running.advance(rows=read))
    _check_labels(rows, plan)
    held_out = _hold_out(rows, sizes[-1])
    if search is not None and tuned is None and held_out is not None:
        with stage(progress, "search for parameters", total=settings.tuning.trials) as running:
            tuned = _search(client, search, held_out, schema, running)
        settings, lineage = _apply(tuned, settings, lineage)
    checkpoints = [
        Checkpoint.of(settings.models_path, _inputs(settings, lineage), p) for p in ("find", "final")
    ]
    with stage(progress, "train on the cluster", total=2 * settings.training.trees) as running:
        first, final = _boost(settings, client, rows, held_out, schema, checkpoints, running)
        running.rows = len(rows)
    with stage(progress, "evaluate beside baselines") as running:
        ranked = [(task, final.booster)]
        if validation is not None and first is not final:
            ranked.insert(0, (validation, first.booster[: first.rounds]))
        windows, published, chosen = _choose_model(settings, ranked, schema)
        running.rows = len(task.space.users) * len(task.space.items)
    choices = [seen, even, *chosen, *told_choices(settings, plan, task.build), *_told(place, tuned)]
    metrics = {
        **evaluation_report(task, published.methods, settings.training.seed),
        "validation": [window.report() for window in windows],
        "exclude_seen": {"value": seen.value, "reason": seen.reason},
        "choices": [asdict(choice) for choice in choices],
        "training": {
            "windows": [[w.start.isoformat(), w.end.isoformat()] for w in plan.training],
            "rows": len(rows),
            "positives": int(rows.labels.sum()),
            "rounds": final.rounds,
            "curve": first.curve,
            "gain": (gain := gain_by_feature(published.booster)),
            "gain_by_scope": gain_by_scope(gain, schema),
            "trials": tuned.trials if tuned is not None else [],
        },
    }
    bundle = ModelBundle.save(
        settings.models_path,
        name=settings.model,
        model=model_bytes(published.booster),
        schema=schema,
        metrics=metrics,
        exclude_seen=seen.value,
        lineage=lineage,
    )
    for checkpoint in checkpoints:
        checkpoint.remove()
    return bundle


def _choose_model(
    settings: Settings, ranked: Sequence[tuple[EvaluationTask, xgboost.Booster]], schema: FeatureSchema
) -> tuple[list[MeasuredWindow], Published, list[Choice]]:
    """Hold forests against baselines in windows that they have not seen, and choose what is published by all of these.

    Args:
        settings: Features and seed.
        ranked: Windows, oldest first, each with a forest of earlier ones; that of the last is the candidate.
        schema: Their columns.
    """
    windows = [MeasuredWindow.of(task, forest, schema) for task, forest in ranked]
    windows, forest, lift = lifted(windows, [forest for _, forest in ranked], schema, settings.features)
    seed = settings.training.seed
    published = forest_or_stand_in(windows, forest, schema, settings.features, seed)
    return windows, published, [lift, published.choice, new_items_choice(windows, seed)]


def _lineage(
    settings: Settings,
    sources: Sources,
    cutoff: datetime,
    plan: WindowPlan,
    builds: dict[LabelWindow, FeatureBuild],
    client: Client,
) -> Lineage:
    """All that the model will depend on, known before it is trained."""
    return Lineage.of_now(
        cutoff=name_of_cutoff(cutoff),
        created_at=datetime.now(UTC),
        feature_builds={build.manifest.cutoff: build.fingerprint for build in builds.values()},
        data={"sources": fingerprint_of(sources, settings, cutoff)},
        parameters={
            **settings.training.model_dump(mode="json", exclude={"external_memory"}),  # the same trees
            "cluster": cluster_shape(client),
            "window_days_used": plan.evaluation.days,
            "windows_used": len(plan.training),
            "code": _code_hash(),
        },
    )


def _inputs(settings: Settings, lineage: Lineage) -> dict[str, Any]:
    """All that decides the booster's bytes: by it a checkpoint of an interrupted training is found."""
    return {"name": settings.model, "libraries": lineage.libraries, **lineage.stable()}


def _code_hash() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _find(settings: Settings, lineage: Lineage) -> ModelBundle | None:
    """A whole bundle that was trained on the same inputs by the same code, if there is one."""
    for path in sorted(settings.models_path.glob("[0-9a-f]*")):
        with suppress(PrescoreError):  # damaged, or of another release: train again
            bundle = ModelBundle.load(path)
            same = (
                bundle.lineage.stable() == lineage.stable() and bundle.lineage.libraries == lineage.libraries
            )
            if same and bundle.name == settings.model:
                return bundle
    return None


def _build_all(
    settings: Settings, sources: Sources, plan: WindowPlan, progress: Progress
) -> dict[LabelWindow, FeatureBuild]:
    builds = {}
    windows = (*plan.training, plan.evaluation)
    with stage(progress, "build features of past windows", total=len(windows)) as running:
        for window in windows:
            builds[window] = build_features(settings, window.start, settings.features_path, sources=sources)
            running.advance(rows=sum(entry.rows for entry in builds[window].manifest.files.values()))
    return builds


def _check_labels(rows: TrainingRows, plan: WindowPlan) -> None:
    positives = int(rows.labels.sum())
    if 0 < positives < len(rows):
        return
    first, last = plan.training[0].start, plan.training[-1].end
    raise SourceError(
        "there is nothing to learn from",
        expected="in the training windows, pairs with an event and pairs without one",
        got=f"{positives} with and {len(rows) - positives} without, from {first:%Y-%m-%d} to {last:%Y-%m-%d}",
        fix="choose another cut-off, lower [candidates] min_events, or give more events",
    )


def _hold_out(rows: TrainingRows, newest: int) -> tuple[TrainingRows, TrainingRows] | None:
    """Rows of the older windows and of the newest one, the last ``newest`` rows; of one window, a fifth of its users.

    ``None`` where one of the two would have only one label.
    """
    if 0 < newest < len(rows):
        older, newer = rows.between(0, len(rows) - newest), rows.between(len(rows) - newest, len(rows))
    else:
        fifth = rows.groups % 5 == 0
        older, newer = rows.where(~fifth), rows.where(fifth)
    return (older, newer) if min(len(np.unique(part.labels)) for part in (older, newer)) == 2 else None


def _search(
    client: Client,
    search: Search,
    held_out: tuple[TrainingRows, TrainingRows],
    schema: FeatureSchema,
    running: Stage,
) -> Tuned:
    def each(said: str) -> None:
        running.advance(rows=1)
        running.note(said)
        log.info("trial", said=said)

    return search.run(client, *held_out, schema, each)


def _apply(tuned: Tuned, settings: Settings, lineage: Lineage) -> tuple[Settings, Lineage]:
    """Settings to train with, and the lineage of what they make, as a search has found them."""
    found = {"trials": len(tuned.trials), tuned.metric: tuned.best, "untuned": tuned.untuned}
    parameters = {**lineage.parameters, **tuned.chosen, "tuning": found}
    return (
        settings.model_copy(update={"training": tuned.applied(settings.training)}),
        lineage.model_copy(update={"parameters": parameters}),
    )


def _told(place: Choice, tuned: Tuned | None) -> list[Choice]:
    return [place] if tuned is None else [place, Choice("tuning", tuned.chosen or "as set", tuned.reason)]


def _boost(
    settings: Settings,
    client: Client,
    rows: TrainingRows,
    held_out: tuple[TrainingRows, TrainingRows] | None,
    schema: FeatureSchema,
    checkpoints: list[Checkpoint],
    running: Stage,
) -> tuple[Boosted, Boosted]:
    """Find the number of rounds on rows that are held out; then train on all rows with it."""
    trees = settings.training.trees

    own, (find, keep) = settings.training, checkpoints

    def each(number: int, metric: float) -> None:
        running.advance()
        running.note(f"round {number + 1}: {metric_name(own)} {metric:.5f}")
        log.info("round", number=number, metric=metric)

    if held_out is None:
        final = boost(client, rows, schema, own, rounds=trees, on_round=each, checkpoint=keep)
        return final, final
    older, newer = held_out
    first = boost(client, older, schema, own, rounds=trees, validation=newer, on_round=each, checkpoint=find)
    final = boost(client, rows, schema, own, rounds=first.rounds, on_round=each, checkpoint=keep)
    log.info("trained", rounds=first.rounds, rows=len(rows))
    return first, final
