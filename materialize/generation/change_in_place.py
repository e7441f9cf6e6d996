"""Changes the live slot from one generation into a related one, row by row: a delta, its undo, or one of its kin.

Two generations with one full generation at the end of their lineages differ only in the users that some delta
after their nearest common ancestor has touched. The pointer announces first which rows may pass through the
slot; then each such user's row is written or removed, each at once and whole; then all of them are read back.
Every step can be repeated. A change that was begun and not flipped to is taken back by whoever comes next.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from features.errors import StoreError
from materialize.generation.lineage import ROW_COLUMNS, Lineage
from materialize.generation.point import point_at
from materialize.generation.slot import load_part, open_loader, view_of
from materialize.progress import stage

if TYPE_CHECKING:
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Fence, Generation
    from materialize.progress import Progress
    from materialize.publish.redis_loader import RedisLoader
    from materialize.settings import Settings

_ATTEMPTS = 2

_log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """From one generation, which the slot holds, into another.

    Attributes:
        source, target: Both lead to one full generation.
        users: Those whose rows may differ, by block.
    """

    source: Lineage
    target: Lineage
    users: dict[int, pa.Array]

    @classmethod
    def between(cls, source: Lineage, target: Lineage) -> Change | None:
        """The change, or ``None`` if the two do not stand on one full generation."""
        if source.ids[-1] != target.ids[-1]:
            return None
        apart = set(source.ids) ^ set(target.ids)
        users = source.touched(apart)
        for number, touched in target.touched(apart).items():
            known = users.get(number, touched)
            users[number] = pa.concat_arrays([known, touched]).unique()
        return cls(source, target, users)

    @property
    def ancestor(self) -> Lineage:
        """The nearest common one."""
        first = next(i for i, name in enumerate(self.source.ids) if name in self.target.ids)
        return Lineage(self.source.generations[first:], self.source.blocks[first:])

    @property
    def passing(self) -> list[Generation]:
        """Generations whose rows the slot may hold meanwhile, beside the common ancestor's."""
        shared = set(self.ancestor.ids)
        return [g for g in (*self.source.generations, *self.target.generations) if g.id not in shared]


def change_in_place(
    settings: Settings,
    catalogue: Catalogue,
    fence: Fence,
    change: Change,
    loader: RedisLoader,
    progress: Progress,
) -> Generation:
    """Make the live slot hold the target; what is live stays so until the flip that the caller makes.

    Returns:
        The target, entered.

    Raises:
        ConflictError: If the fence was lost.
        StorageError: If a scored file is missing or damaged.
        StoreError: If the store refuses, cannot be reached, or does not keep what it has accepted.
    """
    target = catalogue.enter_slot(fence, change.target.generation.id)
    ancestor = change.ancestor
    with stage(progress, "announce the change") as running:
        point_at(settings, ancestor, view_of(target), fence.token, passing=change.passing)
        running.advance()
    write_rows(catalogue, fence, change, view_of(target), loader, progress)
    return target


def write_rows(
    catalogue: Catalogue, fence: Fence, change: Change, view: str, loader: RedisLoader, progress: Progress
) -> None:
    """Give the users that may differ the rows that the target gives them, and read all of them back.

    Raises:
        ConflictError: If the fence was lost.
        StorageError, StoreError: As for :func:`change_in_place`.
    """
    for attempt in range(_ATTEMPTS):
        wrong = 0
        with stage(progress, "change rows of the live slot", len(change.users)) as running:
            for number, users in change.users.items():
                catalogue.check_fence(fence)
                wrong += _write_block(change, number, users, view, loader)
                running.advance(rows=len(users))
        if not wrong:
            return
        _log.warning("rows of the live slot differ from what was written", users=wrong, attempt=attempt + 1)
    raise StoreError(
        "the store does not keep the rows that it has accepted",
        expected="every changed row read back as it was written",
        got=f"{wrong} users whose rows differ",
        fix="see that the store evicts nothing and that one server answers at its address; then run again",
    )


def _write_block(change: Change, number: int, users: pa.Array, view: str, loader: RedisLoader) -> int:
    """Write, remove and read back the rows of one block; users whose row is not the target's after that."""
    left, wrong = users, 0
    for part in change.target.parts(number, users, ROW_COLUMNS):
        load_part(loader, view, part)
        listed = part.users
        wrong += len(listed) - loader.count_generation(view, listed, part.owner.id)
        left = left.filter(pc.invert(pc.is_in(left, value_set=listed.combine_chunks())))
    if len(left):
        loader.remove_view(view, left)
        every = {*change.source.ids, *change.target.ids}
        wrong += sum(loader.count_generation(view, left, name) for name in every)
    return wrong


def take_back_interrupted_change(
    settings: Settings, catalogue: Catalogue, fence: Fence, progress: Progress
) -> None:
    """Restore the live generation's rows where a change of its slot was begun and not flipped to.

    Raises:
        ConflictError: If the fence was lost.
        StorageError, StoreError: As for :func:`change_in_place`.
    """
    for entering in [g for g in catalogue.generations(settings.model) if g.entering is not None]:
        live = catalogue.live_generation(settings.model)
        if live is not None:
            _log.warning("taking back an interrupted change of the live slot", generation=entering.id)
            lineage = Lineage.of(catalogue, live)
            change = Change.between(Lineage.of(catalogue, entering), lineage)
            if change is not None:
                with closing(open_loader(settings.store, settings.project)) as loader:
                    write_rows(catalogue, fence, change, view_of(live), loader, progress)
            point_at(settings, lineage, view_of(live), fence.token)
        catalogue.leave_slot(fence, entering.id)
