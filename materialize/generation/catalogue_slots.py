"""Which generation holds which slot, and which one is live: the changes of that, inside a transaction."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from features.errors import CallerError, NotFoundError
from materialize.generation.catalogue_rows import (
    check_transition,
    existing_generation,
    record_of,
    unload_blocks,
)
from materialize.generation.records import Flip, Generation, Slot
from materialize.generation.tables import FLIPS, GENERATIONS

if TYPE_CHECKING:
    from materialize.generation.records import Fence


def claim_slot(connection: sa.Connection, generation_id: str) -> Generation:
    """As :meth:`materialize.generation.catalogue.Catalogue.claim_slot`, whose fence is checked."""
    known = existing_generation(connection, generation_id)
    if known.state == "live":
        return known
    slot: Slot = "b" if _live(connection, known.model, GENERATIONS.c.slot) == "a" else "a"
    if known.slot == slot:
        return known
    others = (GENERATIONS.c.model == known.model) & (GENERATIONS.c.slot == slot)
    connection.execute(sa.update(GENERATIONS).where(others).values(slot=None))
    connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == known.id).values(slot=slot))
    unload_blocks(connection, known.id)
    return dataclasses.replace(known, slot=slot)


def enter_slot(connection: sa.Connection, generation_id: str) -> Generation:
    """As :meth:`materialize.generation.catalogue.Catalogue.enter_slot`, whose fence is checked."""
    known = existing_generation(connection, generation_id)
    live = _live(connection, known.model, GENERATIONS.c.slot)
    if live is None:
        raise NotFoundError(f"no generation of {known.model!r} is live")
    connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == known.id).values(entering=live))
    return existing_generation(connection, known.id)


def begin_flip(
    connection: sa.Connection, fence: Fence, generation_id: str, *, reason: str, rejects_previous: bool
) -> Flip:
    """As :meth:`materialize.generation.catalogue.Catalogue.begin_flip`, whose fence is checked."""
    target = existing_generation(connection, generation_id)
    check_transition(target, "live")
    slot = target.entering or target.slot
    if slot is None:
        raise CallerError(f"generation {generation_id} holds no slot in the store", fix="load it again first")
    now = datetime.now(UTC)
    previous = _live(connection, target.model, GENERATIONS.c.id)
    if previous is not None:
        left: dict[str, object] = {"state": "rejected" if rejects_previous else "retired"}
        if rejects_previous:
            left["reason"] = reason
        if target.entering is not None:  # the slot has been changed into the target, in place
            left["slot"] = None
        connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == previous).values(left))
    changes = {"state": "live", "slot": slot, "entering": None, "fence": fence.token, "published_at": now}
    connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == target.id).values(changes))
    # Whatever flip was not finished is overtaken by this one.
    unfinished = (FLIPS.c.model == target.model) & FLIPS.c.completed_at.is_(None)
    connection.execute(sa.update(FLIPS).where(unfinished).values(completed_at=now))
    row = {
        "model": target.model,
        "generation": target.id,
        "previous": previous or "",
        "fence": fence.token,
        "reason": reason,
        "flipped_at": now,
        "completed_at": None,
    }
    number = connection.execute(sa.insert(FLIPS).values(row).returning(FLIPS.c.id)).scalar_one()
    return record_of(Flip, connection.execute(sa.select(FLIPS).where(FLIPS.c.id == number)).one())


def _live(connection: sa.Connection, model: str, column: sa.Column[str]) -> str | None:
    """A column of the live generation."""
    return connection.execute(
        sa.select(column).where(GENERATIONS.c.model == model, GENERATIONS.c.state == "live")
    ).scalar_one_or_none()
