"""Between the catalogue's SQL rows and its records, inside one transaction."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import sqlalchemy as sa

from features.errors import CallerError, NotFoundError
from materialize.generation.records import (
    LEGAL_TRANSITIONS,
    Block,
    Flip,
    GateResult,
    Generation,
    Model,
    State,
)
from materialize.generation.tables import BLOCKS, GENERATIONS

Record = TypeVar("Record", Model, Generation, Block, GateResult, Flip)


def values_of(record: Any) -> dict[str, object]:
    """Column values of a record; names are the same."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def record_of(kind: type[Record], row: sa.Row[Any]) -> Record:
    """The record of a row; columns that it does not have are left out."""
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in row._mapping.items() if name in names})  # noqa: SLF001 - the public name of a row's mapping


def find_generation(connection: sa.Connection, generation_id: str) -> Generation | None:
    """A generation by its id, or ``None``."""
    row = connection.execute(sa.select(GENERATIONS).where(GENERATIONS.c.id == generation_id)).one_or_none()
    return None if row is None else record_of(Generation, row)


def existing_generation(connection: sa.Connection, generation_id: str) -> Generation:
    """A generation by its id.

    Raises:
        NotFoundError: If there is none.
    """
    known = find_generation(connection, generation_id)
    if known is None:
        raise NotFoundError(f"no generation {generation_id!r}", fix="see 'prescore generations list'")
    return known


def check_transition(generation: Generation, state: State) -> None:
    """Refuse a state that cannot follow the present one.

    Raises:
        CallerError: Says from which states it could.
    """
    allowed = LEGAL_TRANSITIONS[generation.state]
    if state not in allowed:
        because = f" ({generation.reason})" if generation.reason else ""
        raise CallerError(
            f"generation {generation.id} is {generation.state}{because} and cannot become {state}",
            expected="one that is " + " or ".join(s for s, to in LEGAL_TRANSITIONS.items() if state in to),
        )


def unload_blocks(connection: sa.Connection, generation_id: str) -> None:
    """Note that the store does not hold the rows of a generation."""
    connection.execute(sa.update(BLOCKS).where(BLOCKS.c.generation == generation_id).values(accepted=None))
