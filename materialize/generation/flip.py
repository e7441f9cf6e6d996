"""Makes a generation live: the catalogue first, then the store's pointer, then Feast's feature service.

The catalogue is the truth. A crash after its row leaves a flip that is not complete; the next command
of any kind finishes it (:func:`finish_interrupted_flip`), as often as it takes: every step can be done
again. The pointer carries the fencing token and never gives way to a smaller one, so a publisher that
was thought dead cannot undo a newer flip.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from features.errors import CallerError, ConflictError, NotFoundError, PrescoreError, StorageError
from features.feast_repo import point_service_at
from materialize.generation.artifact import artifact_folder, has_artifact
from materialize.generation.change_in_place import Change, change_in_place, take_back_interrupted_change
from materialize.generation.joined_tables import replace_catalogue_tables
from materialize.generation.lineage import Lineage
from materialize.generation.point import point_at
from materialize.generation.records import GateResult
from materialize.generation.slot import (
    claim_left_slot,
    clear_others,
    load_generation,
    open_loader,
    slot_holds,
    view_of,
)
from materialize.progress import Stage, stage

if TYPE_CHECKING:
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Fence, Flip, Generation
    from materialize.progress import Progress
    from materialize.publish.redis_loader import RedisLoader
    from materialize.settings import Settings

_log = structlog.get_logger()


def flip(
    settings: Settings,
    catalogue: Catalogue,
    fence: Fence,
    generation_id: str,
    progress: Progress,
    *,
    reason: str,
    rejects_previous: bool = False,
) -> Generation:
    """Make a validated or retired generation, whose slot holds it, the one that is served.

    Raises:
        ConflictError: If the fence was lost; the newer publisher's choice stands.
        CallerError: If the generation cannot go live.
        StoreError: If the store cannot be reached; the next command finishes the flip.
    """
    with stage(progress, "flip", 3) as running:
        flipped = catalogue.begin_flip(fence, generation_id, reason=reason, rejects_previous=rejects_previous)
        running.advance()
        _follow(settings, catalogue, flipped, fence.token, running)
    _log.info("generation is live", generation=generation_id, previous=flipped.previous, reason=reason)
    return catalogue.generation(generation_id)


def finish_interrupted_flip(settings: Settings, catalogue: Catalogue) -> Flip | None:
    """Make the store and Feast follow the catalogue, where a crash has kept them from it.

    Returns:
        The flip that was finished, or ``None``.

    Raises:
        StoreError: If the store cannot be reached.
    """
    newest = next(iter(catalogue.flips(settings.model)), None)
    if newest is None or newest.completed_at is not None:
        return None
    _log.warning("finishing an interrupted flip", generation=newest.generation)
    _follow(settings, catalogue, newest, newest.fence)
    return newest


def finish_interrupted(settings: Settings, catalogue: Catalogue, fence: Fence, progress: Progress) -> None:
    """Finish a flip that a crash has left open, and take back a change of the live slot that was not flipped to.

    Raises:
        ConflictError: If the fence was lost.
        StoreError, StorageError: If the store or the scored files cannot be used.
    """
    finish_interrupted_flip(settings, catalogue)
    take_back_interrupted_change(settings, catalogue, fence, progress)


def activate(settings: Settings, catalogue: Catalogue, generation_id: str, progress: Progress) -> Generation:
    """Make a complete generation live by hand; one that its slot no longer holds is loaded again first.

    The live generation itself may be named: that mends a store that has lost its rows.

    Raises:
        NotFoundError: If there is no such generation.
        CallerError: If it is rejected or incomplete.
        ConflictError: If another publisher holds the fence.
        StoreError, StorageError: If the store or the scored files cannot be used.
    """
    with catalogue.hold_fence(settings.model, f"activate {generation_id}") as fence:
        finish_interrupted(settings, catalogue, fence, progress)
        target = catalogue.generation(generation_id)
        if target.state not in {"validated", "retired", "live"}:
            raise CallerError(
                f"generation {target.id} is {target.state}"
                + (f" ({target.reason})" if target.reason else ""),
                expected="one that is validated or retired",
                fix="see 'prescore generations list'",
            )
        return ensure_served(settings, catalogue, fence, target, progress, reason="activated by hand")


def rollback(settings: Settings, catalogue: Catalogue, progress: Progress, *, reason: str = "") -> Generation:
    """Leave the live generation for the one that was live before it.

    The one that is left counts as bad: it becomes ``rejected``, a second rollback goes further back
    instead of returning to it, and a repeated run of the same inputs does not bring it back unless its
    gate ``rolled_back`` is overridden.

    Raises:
        NotFoundError: If nothing is live, or there is no earlier generation that is complete.
        ConflictError: If another publisher holds the fence.
        StoreError, StorageError: If the store or the scored files cannot be used.
    """
    with catalogue.hold_fence(settings.model, "rollback") as fence:
        finish_interrupted(settings, catalogue, fence, progress)
        live = catalogue.live_generation(settings.model)
        if live is None:
            raise NotFoundError(
                f"no generation of {settings.model!r} is live", fix="publish one: 'prescore run'"
            )
        target = _earlier(settings, catalogue)
        said = f"rolled back: {reason}" if reason else "rolled back"
        verdict = GateResult(
            gate="rolled_back", measured=1.0, allowed="at most 0", verdict="failed", reason=said
        )
        catalogue.record_gates(fence, live.id, [verdict])
        return ensure_served(settings, catalogue, fence, target, progress, reason=said, rejects_previous=True)


def _earlier(settings: Settings, catalogue: Catalogue) -> Generation:
    states = {g.id: g for g in catalogue.generations(settings.model)}
    for flipped in catalogue.flips(settings.model):
        found = states.get(flipped.generation)
        # Those that were left for being bad are rejected, those that never were complete were never flipped to.
        if found is not None and found.state == "retired":
            return found
    raise NotFoundError(
        "there is no earlier generation to roll back to",
        expected="a retired generation that is still kept",
        fix="see 'prescore generations list'; [retention] generations says how many are kept",
    )


def ensure_served(
    settings: Settings,
    catalogue: Catalogue,
    fence: Fence,
    target: Generation,
    progress: Progress,
    *,
    reason: str,
    rejects_previous: bool = False,
) -> Generation:
    """Make a validated, retired or live generation the one that is served, whatever the store has lost.

    Where its slot does not hold it, the live slot is changed in place, or it is loaded again from the scored
    files first.

    Raises:
        ConflictError: If the fence was lost.
        StoreError, StorageError: If the store, the scored files or the look-up artifact cannot be used.
    """
    if not has_artifact(settings, target.id):
        raise StorageError(
            f"generation {target.id} has lost its look-up artifact",
            expected=f"a folder {artifact_folder(settings, target.id)}",
            fix="activate another generation, or publish a new one",
        )
    with closing(open_loader(settings.store, settings.project)) as loader:
        target = _put_into_slot(settings, catalogue, fence, target, loader, progress)
    if target.state == "live":
        _follow(settings, catalogue, catalogue.flips(settings.model)[0], fence.token)
        return target
    served = flip(
        settings, catalogue, fence, target.id, progress, reason=reason, rejects_previous=rejects_previous
    )
    try:
        replace_catalogue_tables(settings, catalogue)
    except (PrescoreError, SQLAlchemyError, OSError) as error:
        # What is served is right; a table for analysts must not make an undo in an emergency look failed.
        _log.warning("the SQL tables of models and generations are out of date", error=str(error))
    return served


def _put_into_slot(
    settings: Settings,
    catalogue: Catalogue,
    fence: Fence,
    target: Generation,
    loader: RedisLoader,
    progress: Progress,
) -> Generation:
    """The target, held by a slot: by the live one, changed in place, if the live generation is its kin."""
    lineage = Lineage.of(catalogue, target)
    if slot_holds(loader, lineage):
        return target
    live = catalogue.live_generation(settings.model)
    if live is not None and live.id != target.id:
        change = Change.between(Lineage.of(catalogue, live), lineage)
        if change is not None:
            target = change_in_place(settings, catalogue, fence, change, loader, progress)
            lineage = Lineage.of(catalogue, target)
            if slot_holds(loader, lineage):
                return target
    _log.warning("the slot does not hold the generation; loading it again", generation=target.id)
    if target.entering is None:
        target = claim_left_slot(catalogue, fence, target.id)
    load_again(catalogue, fence, target, loader, progress)
    return target


def load_again(
    catalogue: Catalogue, fence: Fence, generation: Generation, loader: RedisLoader, progress: Progress
) -> None:
    """Load every block of a generation into its slot from the scored files, and clear the slot of others.

    Raises:
        ConflictError: If the fence was lost.
        StoreError, StorageError: If the store or the scored files cannot be used.
    """
    catalogue.unload_blocks(fence, generation.id)
    lineage = Lineage.of(catalogue, generation)
    with stage(progress, f"load {generation.id} again", len(lineage.numbers)) as running:
        running.rows = load_generation(catalogue, fence, lineage, loader, progress)
        clear_others(loader, lineage)


def _follow(
    settings: Settings, catalogue: Catalogue, flipped: Flip, token: int, running: Stage | None = None
) -> None:
    """Pointer, then Feast, then the note that both are done."""
    target = catalogue.generation(flipped.generation)
    if target.slot is None:
        raise ConflictError(f"generation {target.id} was overtaken by another publication", fix="run again")
    point_at(settings, Lineage.of(catalogue, target), view_of(target), token)
    if running:
        running.advance()
    point_service_at(settings, view_of(target))
    if running:
        running.advance()
    catalogue.complete_flip(flipped)
