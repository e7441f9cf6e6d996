"""What a worker does with one block of users: read, score, write the file, load the rows into the slot."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import StorageError
from features.feature_build import FeatureBuild, block_range
from features.schema import ITEM_ID, USER_ID
from materialize.generation.catalogue import Catalogue
from materialize.generation.plan import active_users
from materialize.generation.records import Block, Fence, Generation
from materialize.generation.slot import load_file, open_loader
from materialize.publish.scored_tables import write_block_file
from materialize.scoring import BoundCatalogue

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from materialize.settings import StoreSettings


@dataclass(frozen=True)
class BlockTask:
    """All that a worker needs; small, for it travels with every task.

    Attributes:
        store, project: Where the rows go.
        catalogue_url: Where the fence is.
        fence: Of the publisher.
        generation: With its slot.
        build: Folder of the feature build.
        fingerprint: Of the feature build: a folder keeps its name when its cut-off is built anew.
        catalogue: Folder of the bound catalogue, read by memory map.
        exclude_seen: Whether items of a user's pair features are kept out of the list.
        active_since: Users whose last event is older are left out; ``None``: none are.
        number: Of the block.
        blocks: How many blocks there are.
        path: File to write.
    """

    store: StoreSettings
    project: str
    catalogue_url: str = field(repr=False)  # it may hold a password, and Dask prints tasks that fail
    fence: Fence
    generation: Generation
    build: Path
    fingerprint: str
    catalogue: Path
    exclude_seen: bool
    active_since: datetime | None
    number: int
    blocks: int
    path: Path


def run_block(task: BlockTask) -> Block:
    """Score a block, write its file, and load its rows; running it again gives the same bytes in the same places.

    Raises:
        ConflictError: If the publisher has lost the fence: a slot that now is another's must not be written.
        StorageError: If the features cannot be read or the file cannot be written.
        StoreError: If the store refuses or cannot be reached.
    """
    rows = score_block(task)
    if not rows.num_rows:
        return Block(
            generation=task.generation.id, number=task.number, path="", users=0, rows=0, sha256="", accepted=0
        )
    file = write_block_file(task.path, task.generation.id, rows)
    _catalogue(task.catalogue_url).check_fence(task.fence)
    with closing(open_loader(task.store, task.project)) as loader:
        accepted = load_file(loader, task.generation, file.path)
    users = pc.sum(pc.equal(rows["rank"], 1)).as_py()
    return Block(
        generation=task.generation.id,
        number=task.number,
        path=str(file.path),
        users=users,
        rows=file.rows,
        sha256=file.sha256,
        accepted=accepted,
    )


def score_block(task: BlockTask) -> pa.Table:
    """Scored rows of a block: user_id, rank from 1, item_id, score; sorted by (user_id, rank).

    Raises:
        StorageError: If the features or the catalogue cannot be read.
        SchemaMismatchError: If they do not fit together.
    """
    build = _build(task.build, task.fingerprint)
    catalogue = _bound(task.catalogue)
    hashes = block_range(task.number, task.blocks)
    users = active_users(build.read_users(hashes), task.active_since).sort_by(USER_ID)
    pairs = build.read_pairs(hashes)
    top = catalogue.top_k(
        users,
        task.generation.k,
        affinity={group: build.read_affinity(group, hashes) for group in catalogue.schema.groups},
        pairs=pairs,
        exclude=pairs.select([USER_ID, ITEM_ID]) if task.exclude_seen else None,
    )
    return top.to_table()


# A worker runs many blocks of one generation: it opens things once. The look-up by path is safe, for
# builds and bound catalogues are written aside and never changed in place.
@lru_cache(maxsize=2)
def _bound(folder: Path) -> BoundCatalogue:
    return BoundCatalogue.load(folder)


@lru_cache(maxsize=2)
def _build(folder: Path, fingerprint: str) -> FeatureBuild:
    build = FeatureBuild.load(folder)
    if build.fingerprint != fingerprint:
        raise StorageError(
            f"the features in {folder} were built anew while they were being scored",
            expected=f"fingerprint {fingerprint[:16]}…",
            got=f"{build.fingerprint[:16]}…",
            fix="run again: that plans a generation of the new features",
        )
    return build


@lru_cache(maxsize=2)
def _catalogue(url: str) -> Catalogue:
    return Catalogue.open(url)
