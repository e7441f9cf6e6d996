"""The catalogue: which models, generations, blocks, gate results and flips there are, in SQL.

Every write of a publication names its :class:`Fence` and is refused when that has been lost. What
the catalogue says is the truth; the store and Feast are made to follow it
(:mod:`materialize.generation.flip`).
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from features.errors import CallerError, NotFoundError
from materialize.generation.catalogue_rows import (
    check_transition,
    existing_generation,
    find_generation,
    record_of,
    unload_blocks,
    values_of,
)
from materialize.generation.catalogue_slots import begin_flip, claim_slot, enter_slot
from materialize.generation.database import Database
from materialize.generation.fence import acquire_fence, check_fence, hold_fence, release_fence, renew_fence
from materialize.generation.records import (
    Block,
    Fence,
    Flip,
    GateResult,
    Generation,
    Model,
    Slot,
    State,
)
from materialize.generation.tables import BLOCKS, FLIPS, GATE_RESULTS, GENERATIONS, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

__all__ = ["Block", "Catalogue", "Fence", "Flip", "GateResult", "Generation", "Model", "Slot", "State"]


class Catalogue:
    """Use :meth:`open`. Safe to share between threads; one per process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Catalogue:
        """Connect to the database at an SQLAlchemy URL and migrate it; any number may open at once.

        Raises:
            SettingsError: If the URL is none, or names a database that is not supported.
            StorageError: If the database cannot be reached, or is newer than this release.
        """
        return cls(Database.open(url))

    @property
    def url(self) -> str:
        """Address without its password."""
        return self._database.url

    # --- the fence

    def acquire_fence(self, model: str, owner: str) -> Fence:
        """Become the only publisher of a model, for a lease of a minute.

        Raises:
            ConflictError: If another publisher holds the fence; names it.
        """
        return acquire_fence(self._database, model, owner)

    def check_fence(self, fence: Fence) -> None:
        """See that the fence is still held.

        Raises:
            ConflictError: If another publisher has taken it; names it.
        """
        with self._database.read() as connection:
            check_fence(connection, fence)

    def renew_fence(self, fence: Fence) -> None:
        """Extend the lease.

        Raises:
            ConflictError: If another publisher has taken the fence.
        """
        renew_fence(self._database, fence)

    def release_fence(self, fence: Fence) -> None:
        """Let the next publisher in at once."""
        release_fence(self._database, fence)

    def hold_fence(self, model: str, owner: str) -> AbstractContextManager[Fence]:
        """Hold the fence for the time of a ``with`` block, renewing the lease meanwhile.

        Raises:
            ConflictError: If another publisher holds it.
        """
        return hold_fence(self._database, model, owner)

    # --- models

    def register_model(self, model: Model) -> Model:
        """Record a bundle; one that is already there stays as it is."""
        with self._database.write() as connection:
            row = connection.execute(sa.select(MODELS).where(MODELS.c.id == model.id)).one_or_none()
            if row is not None:
                return record_of(Model, row)
            model = dataclasses.replace(model, created_at=model.created_at or datetime.now(UTC))
            connection.execute(sa.insert(MODELS).values(values_of(model)))
            return model

    def model(self, model_id: str) -> Model:
        """A bundle by its id.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(MODELS).where(MODELS.c.id == model_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"no model {model_id!r} in the catalogue", fix="see 'prescore status'")
        return record_of(Model, row)

    def models(self, name: str) -> list[Model]:
        """All bundles of a name, newest first."""
        query = (
            sa.select(MODELS).where(MODELS.c.name == name).order_by(MODELS.c.created_at.desc(), MODELS.c.id)
        )
        with self._database.read() as connection:
            return [record_of(Model, row) for row in connection.execute(query)]

    # --- generations

    def begin_generation(self, fence: Fence, generation: Generation) -> Generation:
        """Create a generation in state ``building``, or take up the unfinished or rejected one of that id.

        Raises:
            ConflictError: If the fence was lost.
            CallerError: If the generation is live or retired: it is complete.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            known = find_generation(connection, generation.id)
            if known is None:
                known = dataclasses.replace(
                    generation, state="building", slot=None, fence=fence.token, created_at=datetime.now(UTC)
                )
                connection.execute(sa.insert(GENERATIONS).values(values_of(known)))
                return known
            if known.state != "building":
                check_transition(known, "building")
            changes = {"fence": fence.token, "state": "building", "reason": ""}
            connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == known.id).values(changes))
            return existing_generation(connection, known.id)

    def claim_slot(self, fence: Fence, generation_id: str) -> Generation:
        """Give a generation the slot that is not served; whatever held that slot no longer does.

        Where the generation did not hold that slot already, its blocks count as not loaded. The live
        generation keeps its own slot.

        Raises:
            ConflictError: If the fence was lost.
            NotFoundError: If there is no such generation.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            return claim_slot(connection, generation_id)

    def enter_slot(self, fence: Fence, generation_id: str) -> Generation:
        """Note that the live generation's slot is about to be changed into another generation, in place.

        Raises:
            ConflictError: If the fence was lost.
            NotFoundError: If there is no such generation, or none is live.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            return enter_slot(connection, generation_id)

    def leave_slot(self, fence: Fence, generation_id: str) -> None:
        """Note that nothing of a generation that was entering the live one's slot is left there.

        Raises:
            ConflictError: If the fence was lost.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            connection.execute(
                sa.update(GENERATIONS).where(GENERATIONS.c.id == generation_id).values(entering=None)
            )

    def generation(self, generation_id: str) -> Generation:
        """A generation by its id.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.read() as connection:
            return existing_generation(connection, generation_id)

    def find_generation(self, generation_id: str) -> Generation | None:
        """A generation by its id, or ``None``."""
        with self._database.read() as connection:
            return find_generation(connection, generation_id)

    def generations(self, model: str) -> list[Generation]:
        """All generations of a model, newest first."""
        query = (
            sa.select(GENERATIONS)
            .where(GENERATIONS.c.model == model)
            .order_by(GENERATIONS.c.created_at.desc(), GENERATIONS.c.id)
        )
        with self._database.read() as connection:
            return [record_of(Generation, row) for row in connection.execute(query)]

    def unfinished(self) -> list[str]:
        """Ids of all generations, of any model, whose files may not be committed yet."""
        query = sa.select(GENERATIONS.c.id).where(GENERATIONS.c.state.in_(["building", "rejected"]))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(GENERATIONS.c.id)).scalars())

    def live_generation(self, model: str) -> Generation | None:
        """The one that is served, or ``None`` before the first publication."""
        query = sa.select(GENERATIONS).where(GENERATIONS.c.model == model, GENERATIONS.c.state == "live")
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else record_of(Generation, row)

    def move_generation(
        self, fence: Fence, generation_id: str, state: State, *, reason: str = "", rows: int | None = None
    ) -> Generation:
        """Change a generation's state (to ``live`` only by :meth:`begin_flip`).

        Raises:
            ConflictError: If the fence was lost.
            NotFoundError: If there is no such generation.
            CallerError: If the state cannot follow the present one.
        """
        if state == "live":
            raise CallerError("a generation goes live by a flip, not by a change of state")
        with self._database.write() as connection:
            check_fence(connection, fence)
            known = existing_generation(connection, generation_id)
            check_transition(known, state)
            changes: dict[str, object] = {"state": state, "reason": reason, "fence": fence.token}
            if rows is not None:
                changes["rows"] = rows
            connection.execute(sa.update(GENERATIONS).where(GENERATIONS.c.id == known.id).values(changes))
            return existing_generation(connection, known.id)

    def forget_generation(self, fence: Fence, generation_id: str) -> None:
        """Delete a generation that is neither live nor in a flip that is not complete, with its blocks and gates.

        Raises:
            ConflictError: If the fence was lost.
            CallerError: If it is live.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            known = existing_generation(connection, generation_id)
            if known.state == "live":
                raise CallerError(f"generation {generation_id} is live", fix="activate another one first")
            connection.execute(sa.delete(GENERATIONS).where(GENERATIONS.c.id == generation_id))

    # --- blocks and gates

    def record_block(self, fence: Fence, block: Block) -> None:
        """Record a block, replacing what is known of it.

        Raises:
            ConflictError: If the fence was lost.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            key = (BLOCKS.c.generation == block.generation) & (BLOCKS.c.number == block.number)
            connection.execute(sa.delete(BLOCKS).where(key))
            connection.execute(sa.insert(BLOCKS).values(values_of(block)))

    def blocks(self, generation_id: str) -> list[Block]:
        """The recorded blocks of a generation, by number."""
        query = sa.select(BLOCKS).where(BLOCKS.c.generation == generation_id).order_by(BLOCKS.c.number)
        with self._database.read() as connection:
            return [record_of(Block, row) for row in connection.execute(query)]

    def unload_blocks(self, fence: Fence, generation_id: str) -> None:
        """Note that the store no longer holds a generation's rows.

        Raises:
            ConflictError: If the fence was lost.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            unload_blocks(connection, generation_id)

    def record_gates(self, fence: Fence, generation_id: str, results: Iterable[GateResult]) -> None:
        """Record what gates measured, replacing earlier results of the same gates.

        Raises:
            ConflictError: If the fence was lost.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            now = datetime.now(UTC)
            for result in results:
                key = (GATE_RESULTS.c.generation == generation_id) & (GATE_RESULTS.c.gate == result.gate)
                connection.execute(sa.delete(GATE_RESULTS).where(key))
                row = {**values_of(result), "generation": generation_id, "measured_at": now}
                connection.execute(sa.insert(GATE_RESULTS).values(row))

    def gate_results(self, generation_id: str) -> list[GateResult]:
        """What the gates measured of a generation, by gate."""
        query = (
            sa.select(GATE_RESULTS)
            .where(GATE_RESULTS.c.generation == generation_id)
            .order_by(GATE_RESULTS.c.gate)
        )
        with self._database.read() as connection:
            return [record_of(GateResult, row) for row in connection.execute(query)]

    # --- flips

    def begin_flip(
        self, fence: Fence, generation_id: str, *, reason: str, rejects_previous: bool = False
    ) -> Flip:
        """Make a generation the live one, in one transaction; the store and Feast follow after it.

        Args:
            fence: Held by the caller.
            generation_id: A validated or retired generation that holds a slot, or has entered the live one's.
            reason: Why, for the record.
            rejects_previous: Whether the one that was live is left for being bad: it becomes ``rejected``
                instead of ``retired``, so that no later rollback lands on it.

        Raises:
            ConflictError: If the fence was lost.
            CallerError: If the generation cannot go live from its state, or holds no slot.
        """
        with self._database.write() as connection:
            check_fence(connection, fence)
            return begin_flip(
                connection, fence, generation_id, reason=reason, rejects_previous=rejects_previous
            )

    def complete_flip(self, flip: Flip) -> None:
        """Note that the store and Feast have followed; needs no fence, for it changes nothing that is served."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(FLIPS).where(FLIPS.c.id == flip.id).values(completed_at=datetime.now(UTC))
            )

    def flips(self, model: str) -> list[Flip]:
        """All flips of a model, newest first."""
        query = sa.select(FLIPS).where(FLIPS.c.model == model).order_by(FLIPS.c.id.desc())
        with self._database.read() as connection:
            return [record_of(Flip, row) for row in connection.execute(query)]
