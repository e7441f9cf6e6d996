"""What a slot of the store holds of a generation: loading scored files into it, clearing, verifying."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import CallerError, StorageError
from features.schema import USER_ID
from materialize.publish.published_lists import lists_of_rows
from materialize.publish.redis_loader import RedisLoader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Block, Fence, Generation
    from materialize.progress import Progress
    from materialize.settings import StoreSettings

SAMPLED_BLOCKS, SAMPLED_PER_BLOCK = 8, 16


def open_loader(store: StoreSettings, project: str) -> RedisLoader:
    """Connections to the store of the settings.

    Raises:
        StoreError: If it cannot be reached.
    """
    return RedisLoader(
        store.url.get_secret_value(), project, connections=store.connections, timeout=store.timeout_seconds
    )


def view_of(generation: Generation) -> str:
    """Feast view of the slot that holds a generation.

    Raises:
        CallerError: If no slot holds it.
    """
    if generation.slot is None:
        raise CallerError(
            f"generation {generation.id} is in no slot of the store", fix="activate it: that loads it again"
        )
    return f"{generation.model}_{generation.slot}"


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
    lists = lists_of_rows(_read(path, ["user_id", "rank", "item_id", "score"]), generation.id)
    return loader.load(view_of(generation), lists, generation.feature_cutoff).rows_accepted


def load_generation(
    catalogue: Catalogue, fence: Fence, generation: Generation, loader: RedisLoader, progress: Progress
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
    for block in catalogue.blocks(generation.id):
        if block.accepted is None:
            accepted = load_file(loader, generation, block.path) if block.path else 0
            catalogue.record_block(fence, replace(block, accepted=accepted))
            loaded += accepted
        progress.advance()
    return loaded


def clear_others(loader: RedisLoader, generation: Generation, blocks: Sequence[Block]) -> int:
    """Remove from a generation's slot the rows of users who are not in it; the number of users removed."""
    view = view_of(generation)
    stored = loader.stored_ids(view)
    if not len(stored):
        return 0
    parts = [
        chunk.cast(stored.type) for block in blocks if block.path for chunk in users_of(block.path).chunks
    ]
    gone = stored.filter(
        pc.invert(pc.is_in(stored, value_set=pa.chunked_array(parts, stored.type).combine_chunks()))
    )
    if len(gone):
        loader.remove_view(view, gone)
    return len(gone)


def count_stored(loader: RedisLoader, generation: Generation, blocks: Sequence[Block]) -> int:
    """How many users the slot holds with a row of this very generation: each one is read."""
    view = view_of(generation)
    return sum(loader.count_generation(view, users_of(b.path), generation.id) for b in blocks if b.path)


def slot_holds(loader: RedisLoader, generation: Generation, blocks: Sequence[Block]) -> bool:
    """Whether a sample of users, spread over the blocks, is in the slot with this generation's rows.

    Quick on purpose: it tells a slot that holds a generation from one that was overwritten or lost.
    """
    if generation.slot is None:
        return False
    filled = [block for block in blocks if block.path]
    for block in filled[:: max(1, len(filled) // SAMPLED_BLOCKS)]:
        users = users_of(block.path)
        places = np.linspace(0, len(users) - 1, min(SAMPLED_PER_BLOCK, len(users))).astype(np.int64)
        if loader.count_generation(view_of(generation), users.take(pa.array(places)), generation.id) != len(
            places
        ):
            return False
    return True


def users_of(path: Path | str) -> pa.ChunkedArray:
    """Ids of the users with a list in a scored block's file, each once.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    table = _read(path, [USER_ID, "rank"])
    return table.filter(pc.equal(table["rank"], 1))[USER_ID]


def _read(path: Path | str, columns: list[str]) -> pa.Table:
    # One file, not a data set: the folder's name must not become a column.
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"the scored rows in {path} cannot be read", got=str(error), fix="publish the generation again"
        ) from error
