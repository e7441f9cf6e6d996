"""What a slot of the store holds of a generation: loading scored files into it, clearing, verifying."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import CallerError
from features.feast_repo import CACHE_SECONDS
from materialize.generation.lineage import ROW_COLUMNS, Part, read_rows
from materialize.publish.published_lists import lists_of_rows
from materialize.publish.redis_loader import RedisLoader

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.lineage import Lineage
    from materialize.generation.records import Block, Fence, Generation
    from materialize.progress import Progress
    from materialize.settings import StoreSettings

SAMPLED_BLOCKS, SAMPLED_PER_BLOCK = 8, 16

LEFT_SECONDS = CACHE_SECONDS + 0.5
"""How long after a flip a Feast client may still read the slot that was left."""


def open_loader(store: StoreSettings, project: str) -> RedisLoader:
    """Connections to the store of the settings.

    Raises:
        StoreError: If it cannot be reached.
    """
    return RedisLoader(
        store.url.get_secret_value(), project, connections=store.connections, timeout=store.timeout_seconds
    )


def view_of(generation: Generation) -> str:
    """Feast view of the slot that holds a generation, or that it is entering.

    Raises:
        CallerError: If no slot holds it.
    """
    slot = generation.entering or generation.slot
    if slot is None:
        raise CallerError(
            f"generation {generation.id} is in no slot of the store", fix="activate it: that loads it again"
        )
    return f"{generation.model}_{slot}"


def claim_left_slot(catalogue: Catalogue, fence: Fence, generation_id: str) -> Generation:
    """Give a generation the slot that is not served, once the readers of the last flip have left it.

    Raises:
        ConflictError: If the fence was lost.
        NotFoundError: If there is no such generation.
    """
    newest = next(iter(catalogue.flips(fence.model)), None)
    if newest is not None and newest.completed_at is not None:
        since = (datetime.now(UTC) - newest.completed_at).total_seconds()
        time.sleep(min(max(0.0, LEFT_SECONDS - since), LEFT_SECONDS))  # whatever another machine's clock says
    return catalogue.claim_slot(fence, generation_id)


def is_intact(block: Block) -> bool:
    """Whether the file of a block is there and holds the bytes that were written."""
    if not block.path:
        return True
    try:
        with open(block.path, "rb") as file:  # noqa: PTH123 - a plain string from the catalogue
            return hashlib.file_digest(file, "sha256").hexdigest() == block.sha256
    except OSError:
        return False


def load_file(loader: RedisLoader, generation: Generation, path: Path | str) -> int:
    """Load a scored block's file into the generation's slot; the users that the store accepted.

    The rows carry the cut-off as their timestamp, so that loading again gives the same bytes.

    Raises:
        StorageError: If the file is missing or damaged.
        StoreError: If the store refuses or cannot be reached.
    """
    return load_part(loader, view_of(generation), Part(generation, read_rows(path, ROW_COLUMNS)))


def load_part(loader: RedisLoader, view: str, part: Part) -> int:
    """Load rows as the generation that owns them wrote them; the users that the store accepted.

    Raises:
        StoreError: If the store refuses or cannot be reached.
    """
    lists = lists_of_rows(part.rows, part.owner.id)
    return loader.load(view, lists, part.owner.feature_cutoff).rows_accepted


def load_generation(
    catalogue: Catalogue, fence: Fence, lineage: Lineage, loader: RedisLoader, progress: Progress
) -> int:
    """Load the blocks of a generation that its slot does not hold yet, from the scored files.

    Returns:
        Rows (users) loaded.

    Raises:
        StorageError: If a scored file is missing or damaged.
        StoreError: If the store refuses or cannot be reached.
        ConflictError: If the fence was lost.
    """
    loaded = 0
    view = view_of(lineage.generation)
    for block in catalogue.blocks(lineage.generation.id):
        if block.accepted is None:
            accepted = sum(
                load_part(loader, view, part) for part in lineage.parts(block.number, columns=ROW_COLUMNS)
            )
            catalogue.record_block(fence, replace(block, accepted=accepted))
            loaded += accepted
        progress.advance()
    return loaded


def clear_others(loader: RedisLoader, lineage: Lineage) -> int:
    """Remove from a generation's slot the rows of users who have no list in it; the number of users removed."""
    view = view_of(lineage.generation)
    stored = loader.stored_ids(view)
    if not len(stored):
        return 0
    parts = [
        chunk.cast(stored.type)
        for number in lineage.numbers
        for part in lineage.parts(number)
        for chunk in part.users.chunks
    ]
    listed = pa.chunked_array(parts, stored.type).combine_chunks()
    gone = stored.filter(pc.invert(pc.is_in(stored, value_set=listed)))
    if len(gone):
        loader.remove_view(view, gone)
    return len(gone)


def count_stored(loader: RedisLoader, lineage: Lineage) -> int:
    """How many users the slot holds with the very row that the generation gives them: each one is read."""
    view = view_of(lineage.generation)
    return sum(
        loader.count_generation(view, part.users, part.owner.id)
        for number in lineage.numbers
        for part in lineage.parts(number)
    )


def slot_holds(loader: RedisLoader, lineage: Lineage) -> bool:
    """Whether a sample of users, spread over the blocks, is in the slot with this generation's rows.

    Quick on purpose: it tells a slot that holds a generation from one that was overwritten or lost.
    """
    generation = lineage.generation
    if generation.slot is None and generation.entering is None:
        return False
    numbers = lineage.numbers
    for number in numbers[:: max(1, len(numbers) // SAMPLED_BLOCKS)]:
        for part in lineage.parts(number):
            users = part.users
            places = np.linspace(0, len(users) - 1, min(SAMPLED_PER_BLOCK, len(users))).astype(np.int64)
            sample = users.take(pa.array(places))
            if loader.count_generation(view_of(generation), sample, part.owner.id) != len(places):
                return False
    return True
