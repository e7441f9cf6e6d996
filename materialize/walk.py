"""The walk of the data, stage by stage: the one place that knows the order, for every command.

Each function takes the settings and what the stage before left behind; none prints. The heavy imports of
a stage are made when it runs, so that a command waits for no more than it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from features.errors import CallerError, NotFoundError, RetryableError, SettingsError
from materialize.cutoffs import parse_cutoff
from materialize.examples import ExampleUsers, pick_examples
from materialize.progress import stage

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from distributed import Client

    from features.feature_build import FeatureBuild
    from features.sources import SourceReport
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.erase import Proof
    from materialize.generation.records import Generation
    from materialize.generation.stored_features import StoredFeatures
    from materialize.model_bundle import ModelBundle
    from materialize.models.records import Promotion
    from materialize.progress import Progress
    from materialize.settings import Settings

_log = structlog.get_logger()


@dataclass(frozen=True)
class WalkResult:
    """What a whole walk has made.

    Attributes:
        build: Features as of the cut-off.
        bundle: The model that was scored with: the champion.
        promotion: Whether the model that was trained has become it, and why.
        generation: What was published.
        report: What was read from the three tables, and left out.
        examples: Users to look up.
    """

    build: FeatureBuild
    bundle: ModelBundle
    promotion: Promotion
    generation: Generation
    report: SourceReport
    examples: ExampleUsers


def walk(settings: Settings, cutoff: str, progress: Progress) -> WalkResult:
    """Read, build, train, publish features, score and publish: everything up to live look-ups.

    Args:
        settings: With a store that can be connected to (:func:`materialize.embedded.with_store`).
        cutoff: As in :func:`resolve_cutoff`.
        progress: Told of each stage.

    Raises:
        PrescoreError: What any stage raises; what was served before still is.
    """
    from features.sources import default_cutoff, open_sources

    with stage(progress, "read and check the three tables") as running:
        with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
            report = sources.report
            instant = parse_cutoff(cutoff) if cutoff else default_cutoff(sources)
        running.rows = report.rows_kept["events"]
    trained = train(settings, instant, progress)
    promotion = promote_trained(settings, trained, progress)
    bundle = trained if promotion.champion == trained.id else find_bundle(settings, promotion.champion)
    build = build_features(settings, instant, progress)
    with cluster(settings) as client:
        generation = score(settings, build, bundle, client, progress)
    publish_features(settings, build, progress)
    return WalkResult(build, bundle, promotion, generation, report, pick_examples(settings.scoring, build))


def resolve_cutoff(settings: Settings, text: str) -> dt.datetime:
    """The cut-off that was asked for, or the midnight (UTC) after the last event, or the last one if that lies ahead.

    Raises:
        CallerError: If it cannot be read or lies in the future.
        SourceError: If the events cannot be read.
    """
    if text:
        return parse_cutoff(text)
    from features.sources import default_cutoff, open_sources

    with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
        return default_cutoff(sources)


def build_features(settings: Settings, cutoff: dt.datetime, progress: Progress) -> FeatureBuild:
    """Feature tables as of a cut-off; a build of the same inputs is reused."""
    from features.build import build_features as build
    from features.feature_build import FeatureBuild
    from materialize.generation.erase import leave_out_erased

    with stage(progress, f"features as of {cutoff:%Y-%m-%d %H:%M}") as running:
        built = build(settings, cutoff, settings.features_path)
        running.rows = sum(entry.rows for entry in built.manifest.files.values())
    if leave_out_erased(settings, progress):
        built = FeatureBuild.load(built.path)
    return built


def publish_features(settings: Settings, build: FeatureBuild, progress: Progress) -> StoredFeatures:
    """Put the online features into the store, where a miss finds them, unless it holds newer ones."""
    from materialize.generation.stored_features import publish_newer_features

    return publish_newer_features(settings, build, progress)


def cluster(settings: Settings) -> AbstractContextManager[Client]:
    """The Dask cluster of the settings."""
    from materialize.cluster import open_cluster

    return open_cluster(settings.cluster)


def train(settings: Settings, cutoff: dt.datetime, progress: Progress) -> ModelBundle:
    """Train, evaluate, save and register a model: the challenger; one that was trained on the same inputs is reused.

    Boosting does not survive the loss of a worker, so it has a cluster of its own, and a second one if the first fails.
    """
    from materialize.generation.erase import leave_out_erased
    from materialize.models.registry import Registry

    try:
        bundle = _train_once(settings, cutoff, progress)
    except RetryableError as error:
        if (
            type(error) is not RetryableError
        ):  # store and disk have classes of their own: only the cluster is tried again
            raise
        _log.warning("the cluster failed; training again on a new one", error=str(error))
        bundle = _train_once(settings, cutoff, progress)
    registry = Registry.open(settings)
    registry.register(bundle)
    registry.challenge(bundle.id)
    _report_once(settings, bundle)
    leave_out_erased(settings, progress)  # of the builds for its label windows
    return bundle


def _report_once(settings: Settings, bundle: ModelBundle) -> None:
    """Write the page of a model's evaluation, unless there is one, which may hold more baselines."""
    from materialize.training.report import report_path, write_report

    path = report_path(settings, bundle.id)
    if not path.exists():
        write_report(bundle.metrics, bundle.id, path)


def _train_once(settings: Settings, cutoff: dt.datetime, progress: Progress) -> ModelBundle:
    from materialize.training.train import train_model

    with cluster(settings) as client:
        return train_model(settings, cutoff, client, progress)


def evaluate(
    settings: Settings,
    bundle: ModelBundle,
    against: Sequence[str] | None,
    report: Path | None,
    progress: Progress,
) -> tuple[dict[str, Any], Path]:
    """Measure a model anew beside baselines (default: all), and write the page.

    Returns:
        Its metrics, and where the page is: ``report``, or in the warehouse's ``evaluations``.

    Raises:
        CallerError: If there is no baseline of such a name, or the model has no evaluation window.
        SourceError: If the tables cannot be read.
        StorageError: If the page cannot be written.
    """
    from materialize.training.compare import ALL, compare_bundle
    from materialize.training.report import report_path, write_report

    metrics = compare_bundle(settings, bundle, ALL if against is None else against, progress)
    return metrics, write_report(metrics, bundle.id, report or report_path(settings, bundle.id))


def promote_trained(settings: Settings, bundle: ModelBundle, progress: Progress) -> Promotion:
    """Make a model that was just trained the champion if the gates allow it; the first one is it at once."""
    from materialize.models.promotion import promote_unattended

    return promote_unattended(settings, bundle.id, progress)


def find_bundle(settings: Settings, reference: str) -> ModelBundle:
    """A model bundle by alias or id; by default the champion, or where there is none yet, the newest.

    Raises:
        NotFoundError: If there is none.
        CallerError: If it is retired or damaged.
    """
    from materialize.models.promotion import load_bundle
    from materialize.models.registry import Registry

    registry = Registry.open(settings)
    found = registry.find(reference) if reference else registry.default()
    if found.retired_at is not None:
        raise CallerError(
            f"model {found.id} is retired",
            got=found.retired_reason,
            fix="take it back with 'prescore models promote ID --reason …', or name another one",
        )
    return load_bundle(settings, found)


def score(
    settings: Settings,
    build: FeatureBuild,
    bundle: ModelBundle,
    client: Client,
    progress: Progress,
    overrides: Mapping[str, str] | None = None,
    *,
    full: bool = False,
) -> Generation:
    """Score every user against every item, or what changed of that, publish, check the gates, flip; and copy it where ``[sql_copy]`` says so."""
    from materialize.generation.erase import finish_interrupted_erasures
    from materialize.generation.run import publish_generation

    finish_interrupted_erasures(settings, progress)
    generation = publish_generation(settings, build, bundle, client, progress, overrides=overrides, full=full)
    if settings.sql_copy.url.get_secret_value():
        sql_copy(settings, progress)
    return generation


def open_catalogue(settings: Settings) -> Catalogue:
    """The catalogue of models and generations, made and migrated if need be."""
    from materialize.generation.catalogue import Catalogue

    settings.home.mkdir(parents=True, exist_ok=True)
    return Catalogue.open(settings.catalogue_url)


def find_generation(catalogue: Catalogue, model: str, generation_id: str) -> Generation:
    """A generation by id, or the live one.

    Raises:
        NotFoundError: If there is none.
    """
    if generation_id != "live":
        return catalogue.generation(generation_id)
    live = catalogue.live_generation(model)
    if live is None:
        raise NotFoundError(f"no generation of {model!r} is live", fix="publish one: 'prescore run'")
    return live


def work_row(catalogue: Catalogue, generation: Generation) -> dict[str, object]:
    """What was done for a generation, in users; a delta leaves most of them as they are."""
    blocks = catalogue.blocks(generation.id)
    rescored, merged = sum(b.rescored for b in blocks), sum(b.merged for b in blocks)
    return {
        "users": generation.users,
        "scored in full": rescored,
        "changed items only": merged,
        "unchanged": generation.users - rescored - merged,
        "lists written": sum(b.users for b in blocks),
        "lists removed": sum(b.gone for b in blocks),
    }


def gate_rows(catalogue: Catalogue, generation_id: str) -> list[dict[str, object]]:
    """Gates of a generation: measured against allowed."""
    return [
        {
            "gate": g.gate,
            "measured": g.measured,
            "allowed": g.allowed,
            "verdict": g.verdict,
            "reason": g.reason,
        }
        for g in catalogue.gate_results(generation_id)
    ]


def quality_rows(bundle: ModelBundle) -> list[dict[str, object]]:
    """Ranking quality of the model and its baselines, best NDCG@10 first."""
    columns = ("ndcg@10", "recall@10", "recall@50", "coverage@10")
    methods = bundle.metrics.get("methods", {})
    rows: list[dict[str, object]] = []
    for name in sorted(methods, key=lambda name: -methods[name]["ndcg@10"]):
        measured = methods[name]
        rows.append({"method": name} | {column: measured.get(column) for column in columns})
        rows[-1]["ndcg@10, new items"] = measured.get("new_items", {}).get("ndcg@10")
    return rows


def activate(settings: Settings, generation_id: str, progress: Progress) -> Generation:
    """Make a complete generation live."""
    from materialize.generation import flip

    return flip.activate(settings, open_catalogue(settings), generation_id, progress)


def rollback(settings: Settings, progress: Progress) -> Generation:
    """Make the generation live that was so before."""
    from materialize.generation import flip

    return flip.rollback(settings, open_catalogue(settings), progress)


def sql_copy(settings: Settings, progress: Progress, generation_id: str = "live") -> tuple[Generation, int]:
    """Copy a generation into the PostgreSQL database of ``[sql_copy]``; it and the rows that had to be copied.

    Raises:
        SettingsError: If no database is set.
        NotFoundError: If there is no such generation.
        StorageError: If the database refuses; its view shows what it showed before.
    """
    from materialize.publish.postgres_copy import copy_generation
    from materialize.tables import rows_of

    url = settings.sql_copy.url.get_secret_value()
    if not url:
        raise SettingsError(
            "there is no database to copy into",
            expected="[sql_copy] url, best given as PRESCORE_SQL_COPY__URL",
        )
    catalogue = open_catalogue(settings)
    found = find_generation(catalogue, settings.model, generation_id)
    with stage(progress, "copy into PostgreSQL", None if found.kind == "delta" else found.rows) as running:

        def report(rows: int) -> None:
            running.advance(rows - running.rows, rows=rows - running.rows)

        copied = copy_generation(rows_of(catalogue, found), found.id, url, settings.sql_copy.into, report)
    return found, copied


def erase_user(settings: Settings, user_id: str, progress: Progress) -> Proof:
    """Erase a user everywhere, and prove it."""
    from materialize.generation import erase

    return erase.erase_user(settings, user_id, progress)


def readmit_user(settings: Settings, user_id: str) -> bool:
    """Forget that a user was erased; whether one was."""
    from materialize.generation.erase import parse_user
    from materialize.generation.erasure_log import ErasureLog

    return bool(ErasureLog.of(settings).readmit(str(parse_user(settings, user_id))))
