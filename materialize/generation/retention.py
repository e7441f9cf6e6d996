"""Collects what is no longer kept: scored files, artifacts and catalogue rows of old generations.

Kept are the live generation, the last retired ones up to ``[retention] generations`` in all, and the
newest one that is unfinished or rejected: to be taken up again, or looked at. What a kept delta stands on is
kept too, but for what only a delta on it would need.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import structlog

from materialize.generation.artifact import generation_folder
from materialize.generation.snapshots import snapshot_folder
from materialize.publish.scored_tables import ScoredTables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Fence, Generation
    from materialize.settings import Settings

_log = structlog.get_logger()


def superfluous(generations: Sequence[Generation], keep: int) -> tuple[list[Generation], list[Generation]]:
    """Those to collect, and those that are kept only because a delta stands on them.

    Args:
        generations: All of a model, newest first.
        keep: Live and retired ones to keep.
    """
    retired = sorted(
        (g for g in generations if g.state == "retired" and g.published_at),
        key=lambda g: g.published_at.timestamp() if g.published_at else 0.0,
        reverse=True,
    )
    others = [g for g in generations if g.state in {"building", "validated", "rejected"}]
    unwanted = {g.id: g for g in retired[max(0, keep - 1) :] + others[1:]}
    known, beneath = {g.id: g for g in generations}, {}
    for generation in generations:
        if generation.id not in unwanted:
            parent = known.get(generation.parent)
            while parent is not None and parent.id in unwanted and parent.id not in beneath:
                beneath[parent.id] = parent
                parent = known.get(parent.parent)
    return [g for g in unwanted.values() if g.id not in beneath], list(beneath.values())


def collect_generations(settings: Settings, catalogue: Catalogue, fence: Fence) -> list[str]:
    """Remove what is no longer kept; the row in the catalogue goes last, so that a crash leaves nothing forgotten.

    Returns:
        Ids of the generations that were removed.

    Raises:
        ConflictError: If the fence was lost.
        StorageError: If files cannot be removed.
    """
    tables = ScoredTables.of(settings)
    gone, beneath = superfluous(catalogue.generations(settings.model), settings.retention.generations)
    for generation in beneath:
        shutil.rmtree(snapshot_folder(settings, generation.id), ignore_errors=True)
    for generation in gone:
        catalogue.check_fence(fence)
        tables.commit_generation(generation.id, [])
        shutil.rmtree(generation_folder(settings, generation.id), ignore_errors=True)
    tables.collect_orphans(building=catalogue.unfinished())
    for generation in gone:
        shutil.rmtree(tables.generation_folder(generation.id), ignore_errors=True)
        catalogue.forget_generation(fence, generation.id)
        _log.info("generation collected", generation=generation.id, state=generation.state)
    return [generation.id for generation in gone]
