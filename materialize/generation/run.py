"""Publishes a generation: plan, score, load, verify, commit, measure, flip; each step can be repeated.

The order, and what a crash after each step leaves, is in ``docs/architecture.md``. A run that was
interrupted is taken up where it stopped: blocks that are recorded are not scored again, and what the
store lost meanwhile is loaded from the files.
"""

from __future__ import annotations

import getpass
import os
import shutil
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import structlog
from sqlalchemy.exc import SQLAlchemyError

from features.errors import CallerError, SchemaMismatchError, StorageError
from features.feast_repo import apply_feature_repo
from materialize.generation.artifact import has_artifact, write_artifact
from materialize.generation.block_task import BlockTask
from materialize.generation.catalogue import Catalogue
from materialize.generation.choose_plan import bound_folder, choose_plan
from materialize.generation.compared_lists import ComparedLists
from materialize.generation.flip import ensure_served, finish_interrupted, load_again
from materialize.generation.gates import check_overrides, gates_after, gates_before, override, refuse_failed
from materialize.generation.joined_tables import replace_entity_tables
from materialize.generation.lineage import Lineage
from materialize.generation.measures import measure_lists
from materialize.generation.offline_metrics import read_offline_metrics
from materialize.generation.plan import generation_id
from materialize.generation.records import GateResult, Model
from materialize.generation.report import write_report
from materialize.generation.retention import collect_generations
from materialize.generation.score_blocks import bind_catalogue, score_blocks
from materialize.generation.slot import (
    claim_left_slot,
    clear_others,
    count_stored,
    is_intact,
    load_generation,
    open_loader,
)
from materialize.generation.snapshots import save_items, snapshot_folder
from materialize.progress import NoProgress, Progress, stage
from materialize.publish.scored_tables import ScoredTables
from materialize.scoring import BoundCatalogue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from features.feature_build import FeatureBuild
    from materialize.generation.plan import Plan
    from materialize.generation.records import Block, Fence, Generation
    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings

_log = structlog.get_logger()


def publish_generation(
    settings: Settings,
    build: FeatureBuild,
    bundle: ModelBundle,
    client: Client,
    progress: Progress | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    full: bool = False,
) -> Generation:
    """Score every planned user against every candidate item, or what changed of that, and make the result live.

    The generation's id is a function of its inputs: a run of the same inputs goes on with what an
    interrupted one left, and does nothing where they are live already.

    Args:
        settings: With a store that can be connected to (``materialize.embedded.with_store``).
        build: Features as of the cut-off.
        bundle: The model.
        client: Of the Dask cluster whose workers see the warehouse.
        progress: Told of each stage.
        overrides: Reason by name of a gate that is let through (:data:`materialize.generation.gates.GATES`).
        full: Make a full generation, even where a delta would do.

    Returns:
        The generation, live.

    Raises:
        GateRejectedError: If a gate failed; its results are recorded and what is served has not changed.
        ConflictError: If another publisher holds the fence.
        SchemaMismatchError: If features and model do not fit.
        CallerError: If there is nothing to publish, the cut-off lies in the future, or an override is wrong.
        StoreError, StorageError: If the store or the warehouse cannot be used; running again goes on.
    """
    check_overrides(overrides or {})
    if build.cutoff > datetime.now(UTC):
        raise CallerError("the cut-off lies in the future", got=f"{build.cutoff:%Y-%m-%d %H:%M:%S} UTC")
    if bundle.name != settings.model:
        raise CallerError(
            f"model bundle {bundle.id} is not of this model", expected=settings.model, got=bundle.name
        )
    check_fit(build, bundle)
    progress = progress or NoProgress()
    catalogue = Catalogue.open(settings.catalogue_url)
    owner = f"{getpass.getuser()}, publishing features of {build.cutoff_name} in process {os.getpid()}"
    with catalogue.hold_fence(bundle.name, owner) as fence:
        finish_interrupted(settings, catalogue, fence, progress)
        with stage(progress, "plan") as running:
            plan = choose_plan(settings, catalogue, build, bundle, full=full)
            running.rows = plan.generation.users
        publication = _Publication(settings, build, bundle, plan, catalogue, fence, progress, overrides or {})
        return publication.run(client)


@dataclass(frozen=True)
class _Publication:
    """One run, under the fence."""

    settings: Settings
    build: FeatureBuild
    bundle: ModelBundle
    plan: Plan
    catalogue: Catalogue
    fence: Fence
    progress: Progress
    overrides: Mapping[str, str]

    def run(self, client: Client) -> Generation:
        known = self.catalogue.find_generation(self.plan.generation.id)
        if known is not None and known.state == "live":
            _log.info("the same inputs are live already: nothing to do", generation=known.id)
        else:
            known = self._measure_and_write(known, client)
        served = ensure_served(
            self.settings, self.catalogue, self.fence, known, self.progress, reason="published"
        )
        try:
            replace_entity_tables(self.settings, self.build, self.plan)
            collect_generations(self.settings, self.catalogue, self.fence)
        except (StorageError, SQLAlchemyError, OSError) as error:
            free = shutil.disk_usage(self.settings.warehouse_path).free
            raise StorageError(
                f"generation {served.id} is live, but the tables beside it and old generations could not be tidied",
                got=f"{free / 1e6:,.0f} MB free on the warehouse's disk; {error}",
                fix="free space if there is none; the same run again does the rest",
            ) from error
        return served

    def _measure_and_write(self, known: Generation | None, client: Client) -> Generation:
        """A generation that may be flipped to."""
        if known is None or known.state in {"building", "rejected"}:
            self.catalogue.register_model(
                Model(
                    id=self.bundle.id,
                    name=self.bundle.name,
                    path=str(self.bundle.path),
                    schema_hash=self.bundle.schema.hash,
                    metrics=dict(self.bundle.metrics),
                )
            )
            known = self.catalogue.begin_generation(self.fence, self.plan.generation)
        live = self.catalogue.live_generation(known.model)
        self._judge(known, self._gates_before(known, live))
        if known.state != "building":
            return known
        with stage(self.progress, "register the views in Feast"):
            apply_feature_repo(self.settings, self.build.schema)
        if known.kind == "full":
            known = claim_left_slot(self.catalogue, self.fence, known.id)
        blocks = self._score(known, client)
        mismatches = self._verify(known, blocks) if known.kind == "full" else {}
        tables = ScoredTables.of(self.settings)
        files = [block.path for block in blocks if block.path]
        with stage(self.progress, "commit the scored table") as running:
            if files:
                tables.commit_generation(known.id, [Path(file) for file in files])
            running.rows = sum(block.rows for block in blocks)
        committed = sum(pq.ParquetFile(file).metadata.num_rows for file in tables.files(known.id))
        with stage(self.progress, "write the look-up artifact") as running:
            bound = bound_folder(self.settings, known.id)
            if not has_artifact(self.settings, known.id):
                bind_catalogue(bound, self.build, self.bundle)
                write_artifact(self.settings, known, self.build, self.bundle, bound)
            shutil.rmtree(bound, ignore_errors=True)
            running.rows = known.items
        with stage(self.progress, "measure the gates") as running:
            lists = ComparedLists.of(self.catalogue, known, live)
            measures = measure_lists(lists)
            rows = sum(block.rows for block in blocks)
            mismatches |= {"files": measures.rows - rows, "scored table": committed - rows}
            running.rows = rows
            try:
                self._judge(known, gates_after(self.settings.gates, known, measures, mismatches=mismatches))
            finally:
                write_report(self.settings, self.catalogue, known, live, self.build, lists, measures.samples)
        return self.catalogue.move_generation(self.fence, known.id, "validated", rows=rows)

    def _gates_before(self, known: Generation, live: Generation | None) -> list[GateResult]:
        live_metrics = read_offline_metrics(self.catalogue.model(live.model_id).metrics) if live else None
        return gates_before(
            self.settings.gates,
            known,
            live,
            read_offline_metrics(self.bundle.metrics),
            live_metrics,
            rollbacks=self._rollbacks(known),
        )

    def _rollbacks(self, known: Generation) -> int:
        """How often these inputs were rolled back, as a full generation or as a delta on whichever parent."""
        rolled_back = {
            g.id: r.verdict
            for g in self.catalogue.generations(known.model)
            if g.id == generation_id(self.settings.scoring, self.build, self.bundle, g.parent)
            for r in self.catalogue.gate_results(g.id)
            if r.gate == "rolled_back"
        }
        # One that was let through in spite of its rollback is forgiven.
        forgiven = rolled_back.get(known.id) == "overridden"
        return 0 if forgiven else list(rolled_back.values()).count("failed")

    def _judge(self, known: Generation, results: list[GateResult]) -> None:
        results = override(results, self.overrides)
        self.catalogue.record_gates(self.fence, known.id, results)
        failed = [result.gate for result in results if result.verdict == "failed"]
        if failed and known.state in {"building", "validated"}:
            reason = "failed " + ", ".join(failed)
            self.catalogue.move_generation(self.fence, known.id, "rejected", reason=reason)
        refuse_failed(known.id, results)

    def _score(self, known: Generation, client: Client) -> list[Block]:
        """All blocks of the generation: those an earlier run has left, and the others scored now."""
        tables = ScoredTables.of(self.settings)
        done = {block.number for block in self.catalogue.blocks(known.id) if is_intact(block)}
        todo = [number for number in range(self.plan.blocks) if number not in done]
        bound, snapshots = bound_folder(self.settings, known.id), snapshot_folder(self.settings, known.id)
        if todo:
            with stage(self.progress, "bind the model to the items") as running:
                bind_catalogue(bound, self.build, self.bundle)
                if self.settings.scoring.max_deltas:
                    save_items(BoundCatalogue.load(bound), snapshots)
                running.rows = known.items
        delta, checked = known.kind == "delta", self.build.checked_files()
        tasks = [
            BlockTask(
                store=self.settings.store,
                project=self.settings.project,
                catalogue_url=self.settings.catalogue_url,
                fence=self.fence,
                generation=known,
                build=self.build.path.absolute(),
                fingerprint=self.build.fingerprint,
                checked=checked,
                catalogue=bound,
                exclude_seen=self.bundle.exclude_seen,
                active_since=self.plan.active_since,
                number=number,
                blocks=self.plan.blocks,
                path=tables.block_path(known.id, number, self.plan.blocks),
                reserve=self.settings.scoring.reserve,
                snapshots=snapshots if self.settings.scoring.max_deltas else None,
                parent_snapshots=snapshot_folder(self.settings, known.parent) if delta else None,
            )
            for number in todo
        ]
        name = "score what has changed" if delta else "score every user against every item"
        with stage(self.progress, name, self.plan.blocks) as running:
            running.advance(len(done))
            for block in score_blocks(client, tasks):
                self.catalogue.record_block(self.fence, block)
                running.advance(rows=block.rescored * known.items)
        return self.catalogue.blocks(known.id)

    def _verify(self, known: Generation, blocks: list[Block]) -> dict[str, int]:
        """Make the slot hold this generation and nothing else; users that differ, by place, after that."""
        users = sum(block.users for block in blocks)
        with (
            stage(self.progress, "verify the store") as running,
            closing(open_loader(self.settings.store, self.settings.project)) as loader,
        ):
            # What an earlier run has scored but not loaded, or loaded into a slot that was then taken.
            lineage = Lineage.of(self.catalogue, known)
            load_generation(self.catalogue, self.fence, lineage, loader, NoProgress())
            removed = clear_others(loader, lineage)
            stored = count_stored(loader, lineage)
            if stored != users:  # the store was restarted, or another publisher's last task came late
                _log.warning("the store has lost rows; loading all again", expected=users, stored=stored)
                load_again(self.catalogue, self.fence, known, loader, self.progress)
                stored = count_stored(loader, lineage)
            if removed:
                _log.info("users who left were removed from the slot", users=removed)
            running.rows = stored
        accepted = sum(block.accepted or 0 for block in self.catalogue.blocks(known.id))
        return {"accepted by the store": accepted - users, "read back from the store": stored - users}


def check_fit(build: FeatureBuild, bundle: ModelBundle) -> None:
    """Refuse a model whose features the build does not have, before any work.

    Raises:
        SchemaMismatchError: Names what differs.
    """
    have = {column.name: column for column in build.schema.columns}
    wrong = []
    for column in bundle.schema.columns:
        found = have.get(column.name)
        if found is None:
            wrong.append(f"{column.name} is missing")
        elif (found.scope, found.feature_type) != (column.scope, column.feature_type):
            wrong.append(
                f"{column.name} is {found.scope} {found.feature_type}, not {column.scope} {column.feature_type}"
            )
    wrong += [
        f"{name} is {getattr(build.schema, name)}, not {getattr(bundle.schema, name)}"
        for name in ("user_id_type", "item_id_type")
        if getattr(build.schema, name) != getattr(bundle.schema, name)
    ]
    if wrong:
        raise SchemaMismatchError(
            f"model {bundle.id} does not fit the features of {build.manifest.cutoff}",
            expected="every column that the model was trained on",
            got="; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            fix="train a model on these features: 'prescore train'",
        )
