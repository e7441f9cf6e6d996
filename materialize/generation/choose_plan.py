"""Decides whether a run publishes a delta on the live generation or a full one, and says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from features.errors import StorageError
from materialize.generation.artifact import generation_folder
from materialize.generation.block_task import block_inputs
from materialize.generation.lineage import Lineage
from materialize.generation.plan import plan_generation
from materialize.generation.score_blocks import bind_catalogue
from materialize.generation.snapshots import has_snapshots, load_block, load_items, snapshot_folder
from materialize.scoring import BoundCatalogue
from materialize.scoring.delta import DeltaScorer

if TYPE_CHECKING:
    from pathlib import Path

    from features.feature_build import FeatureBuild
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.plan import Plan
    from materialize.generation.records import Generation
    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings

_SAMPLED_USERS = 4096
"""Users are spread over blocks by a hash, so a few thousand tell what share of all users has changed."""

_log = structlog.get_logger()


def bound_folder(settings: Settings, generation_id: str) -> Path:
    """Where a generation's bound catalogue is while it is being scored."""
    return generation_folder(settings, generation_id) / "scoring"


def choose_plan(
    settings: Settings, catalogue: Catalogue, build: FeatureBuild, bundle: ModelBundle, *, full: bool
) -> Plan:
    """A delta on the live generation where that pays, otherwise a full generation.

    A generation of the same inputs that was begun, or is live, is gone on with, whichever kind it is.

    Args:
        settings: Say when a delta does not pay.
        catalogue: Knows what is live.
        build: Features as of the cut-off.
        bundle: The model.
        full: Whether a full generation is asked for.

    Raises:
        SourceError: If there is no user to precompute or no item to recommend.
        StorageError: If the features cannot be read.
    """
    plan = plan_generation(settings.scoring, build, bundle)
    live = catalogue.live_generation(bundle.name)
    if full or live is None or catalogue.find_generation(plan.generation.id) is not None:
        return plan
    if live.kind == "delta":
        same = _delta_on(settings, catalogue, build, bundle, catalogue.generation(live.parent))
        if same.generation.id == live.id:
            return same
    delta = _delta_on(settings, catalogue, build, bundle, live)
    if catalogue.find_generation(delta.generation.id) is not None:
        return delta
    try:
        why = _why_not(settings, catalogue, build, bundle, live, delta)
    except StorageError as error:
        why = str(error)  # a snapshot is damaged, or of another release: a full generation needs none
    if not why:
        return delta
    _log.info("a full generation", why=why)
    bound = bound_folder(settings, delta.generation.id)
    if bound.exists():  # it is the same for both
        target = bound_folder(settings, plan.generation.id)
        target.parent.mkdir(parents=True, exist_ok=True)
        bound.rename(target)
        bound.parent.rmdir()
    return plan


def _delta_on(
    settings: Settings, catalogue: Catalogue, build: FeatureBuild, bundle: ModelBundle, parent: Generation
) -> Plan:
    return plan_generation(settings.scoring, build, bundle, parent, len(catalogue.blocks(parent.id)))


def _why_not(
    settings: Settings,
    catalogue: Catalogue,
    build: FeatureBuild,
    bundle: ModelBundle,
    live: Generation,
    delta: Plan,
) -> str:
    """Why a delta does not pay or is not possible; empty if it is."""
    scoring, deltas = settings.scoring, len(Lineage.of(catalogue, live).generations) - 1
    impossible = {
        f"{deltas} deltas in a row, of at most {scoring.max_deltas}": deltas >= scoring.max_deltas,
        "another model": live.model_id != bundle.id,
        "lists of another length": live.k != scoring.k,
        "the live generation left nothing to compare with": not has_snapshots(
            snapshot_folder(settings, live.id), delta.blocks
        ),
    }
    for why, holds in impossible.items():
        if holds:
            return why
    folder = bound_folder(settings, delta.generation.id)
    bind_catalogue(folder, build, bundle)
    before = snapshot_folder(settings, live.id)
    scorer = DeltaScorer.of(BoundCatalogue.load(folder), load_items(before))
    if not scorer.comparable:
        return "too many items changed"
    share = _share_to_rescore(scorer, before, live, build, bundle, delta)
    _log.info("what has changed", items=len(scorer.changed_items), users=f"{share:.1%}")
    if share > scoring.max_changed_users:
        return f"{share:.0%} of users changed, of at most {scoring.max_changed_users:.0%}"
    return ""


def _share_to_rescore(
    scorer: DeltaScorer,
    before: Path,
    live: Generation,
    build: FeatureBuild,
    bundle: ModelBundle,
    delta: Plan,
) -> float:
    """Share of users who would be scored against all items, in the first part of a block that holds any."""
    parts = max(1, delta.generation.users // delta.blocks // _SAMPLED_USERS)
    for number in range(delta.blocks):
        block, inputs = block_inputs(
            build,
            scorer.catalogue,
            number * parts,
            delta.blocks * parts,
            active_since=delta.active_since,
            exclude_seen=bundle.exclude_seen,
        )
        if block.num_rows:
            plan = scorer.plan(load_block(before, live.id, number), block, **inputs)
            return len(plan.full) / len(block)
    return 0.0
