"""What a worker does with one block of users: read, score, write the file, load the rows into the slot."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import StorageError
from features.feature_build import MANIFEST, FeatureBuild, block_range, trust
from features.schema import ITEM_ID, PAIR, USER, USER_ID, affinity
from materialize.generation.catalogue import Catalogue
from materialize.generation.lineage import GONE
from materialize.generation.plan import active_users
from materialize.generation.records import Block, Fence, Generation
from materialize.generation.slot import load_file, open_loader
from materialize.generation.snapshots import load_block, load_items, save_block
from materialize.publish.scored_tables import write_block_file
from materialize.scoring import BoundCatalogue
from materialize.scoring.delta import DeltaScorer, run_full

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from features.feature_build import CheckedFile
    from materialize.scoring.signatures import SignedItems
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
        checked: Its files, whose hashes the publisher has checked.
        catalogue: Folder of the bound catalogue, read by memory map.
        exclude_seen: Whether items that a user had in the pair history are kept out of the list.
        active_since: Users whose last event is older are left out; ``None``: none are.
        number: Of the block.
        blocks: How many blocks there are.
        path: File to write.
        reserve: Items beyond k that are kept for the next delta.
        snapshots: Folder of what the next delta needs (:mod:`materialize.generation.snapshots`); ``None``: nothing.
        parent_snapshots: Of a delta: what its parent left.
    """

    store: StoreSettings
    project: str
    catalogue_url: str = field(repr=False)  # it may hold a password, and Dask prints tasks that fail
    fence: Fence
    generation: Generation
    build: Path
    fingerprint: str
    checked: frozenset[CheckedFile]
    catalogue: Path
    exclude_seen: bool
    active_since: datetime | None
    number: int
    blocks: int
    path: Path
    reserve: int = 0
    snapshots: Path | None = None
    parent_snapshots: Path | None = None


def run_block(task: BlockTask) -> Block:
    """Score a block and write its file; of a full generation, load its rows too.

    Running it again gives the same bytes in the same places. A delta's rows are loaded once all gates have passed,
    for its slot is served.

    Raises:
        ConflictError: If the publisher has lost the fence: a slot that now is another's must not be written.
        StorageError: If the features cannot be read or the file cannot be written.
        StoreError: If the store refuses or cannot be reached.
    """
    if task.generation.kind == "delta":
        return _run_delta(task)
    rows = score_block(task)
    block = Block(generation=task.generation.id, number=task.number, path="", users=0, rows=0, sha256="")
    if not rows.num_rows:
        return replace(block, accepted=0)
    file = write_block_file(task.path, task.generation.id, rows)
    _catalogue(task.catalogue_url).check_fence(task.fence)
    with closing(open_loader(task.store, task.project)) as loader:
        accepted = load_file(loader, task.generation, file.path)
    users = pc.sum(pc.equal(rows["rank"], 1)).as_py()
    return replace(
        block,
        path=str(file.path),
        users=users,
        rows=file.rows,
        sha256=file.sha256,
        accepted=accepted,
        lists=users,
        rescored=users,
    )


def score_block(task: BlockTask) -> pa.Table:
    """Scored rows of a block: user_id, rank from 1, item_id, score; sorted by (user_id, rank).

    Raises:
        StorageError: If the features or the catalogue cannot be read, or the snapshot cannot be written.
        SchemaMismatchError: If they do not fit together.
    """
    catalogue, k = _bound(task.catalogue), task.generation.k
    users, inputs = _inputs(task, catalogue)
    if task.snapshots is None:
        return catalogue.top_k(users, k, **inputs).to_table()
    snapshot = run_full(catalogue, _signed(task.snapshots), users, k, task.reserve, **inputs)
    save_block(snapshot, task.snapshots, task.generation.id, task.number)
    return snapshot.published(catalogue.item_ids).to_table()


def _run_delta(task: BlockTask) -> Block:
    """Score what changed, and write the lists that differ; of the users who have none any more, a row that says so."""
    if task.snapshots is None or task.parent_snapshots is None:
        raise ValueError("a delta needs its parent's snapshots and a place for its own")
    delta = _delta(task.catalogue, task.parent_snapshots)
    users, inputs = _inputs(task, delta.catalogue)
    previous = load_block(task.parent_snapshots, task.generation.parent, task.number)
    done = delta.run(previous, users, task.generation.k, task.reserve, **inputs)
    save_block(done.snapshot, task.snapshots, task.generation.id, task.number)
    block = Block(
        generation=task.generation.id,
        number=task.number,
        path="",
        users=len(done.changed.user_ids),
        rows=0,
        sha256="",
        lists=int((done.snapshot.counts > 0).sum()),
        gone=len(done.gone),
        rescored=len(done.plan.full) + len(done.exhausted),
        merged=len(done.plan.merged) - len(done.exhausted),
    )
    rows = done.changed.to_table()
    gone = pa.table(
        {
            USER_ID: done.gone.cast(rows[USER_ID].type),
            "rank": pa.repeat(pa.scalar(GONE, pa.int32()), len(done.gone)),
            ITEM_ID: pa.nulls(len(done.gone), rows[ITEM_ID].type),
            "score": pa.nulls(len(done.gone), pa.float32()),
        }
    )
    rows = pa.concat_tables([rows, gone.cast(rows.schema)])
    if not rows.num_rows:
        return block
    rows = rows.sort_by([(USER_ID, "ascending"), ("rank", "ascending")])
    file = write_block_file(task.path, task.generation.id, rows)
    return replace(block, path=str(file.path), rows=file.rows, sha256=file.sha256)


def _inputs(task: BlockTask, catalogue: BoundCatalogue) -> tuple[pa.Table, dict[str, Any]]:
    """Users of the block, and what else the scorer needs of them."""
    trust(task.checked)
    return block_inputs(
        _build(task.build, task.fingerprint),
        catalogue,
        task.number,
        task.blocks,
        active_since=task.active_since,
        exclude_seen=task.exclude_seen,
    )


def block_inputs(
    build: FeatureBuild,
    catalogue: BoundCatalogue,
    number: int,
    blocks: int,
    *,
    active_since: datetime | None,
    exclude_seen: bool,
) -> tuple[pa.Table, dict[str, Any]]:
    """Users of a block, sorted by id, and the other inputs of :meth:`BoundCatalogue.top_k`: what the model looks at.

    Raises:
        StorageError: If the features cannot be read.
    """
    hashes = block_range(number, blocks)
    users = build.read_users(hashes, [USER_ID, "last_event", *catalogue.tested(USER)])
    return active_users(users, active_since).sort_by(USER_ID), {
        "affinity": {
            group: build.read_affinity(group, hashes, [USER_ID, group, *catalogue.tested(affinity(group))])
            for group in catalogue.schema.groups
        },
        "pairs": build.read_pairs(hashes, [USER_ID, ITEM_ID, *catalogue.tested(PAIR)]),
        "exclude": build.read_seen(hashes) if exclude_seen else None,
    }


# A worker runs many blocks of one generation: it opens things once. The look-up by path is safe, for
# bound catalogues and snapshots of items are written aside and never changed in place.
@lru_cache(maxsize=2)
def _bound(folder: Path) -> BoundCatalogue:
    return BoundCatalogue.load(folder)


@lru_cache(maxsize=2)
def _signed(snapshots: Path) -> SignedItems:
    return load_items(snapshots)


@lru_cache(maxsize=2)
def _delta(catalogue: Path, parent_snapshots: Path) -> DeltaScorer:
    return DeltaScorer.of(_bound(catalogue), load_items(parent_snapshots))


def _build(folder: Path, fingerprint: str) -> FeatureBuild:
    # A build is replaced as a whole, by another of its cut-off or, with its fingerprint, by one without erased users.
    try:
        stat = (folder / MANIFEST).stat()
        build = _loaded(folder, stat.st_ino, stat.st_mtime_ns)
    except OSError as error:
        raise StorageError(
            f"the features in {folder} cannot be read", got=str(error), fix="build them again, then run again"
        ) from error
    if build.fingerprint != fingerprint:
        raise StorageError(
            f"the features in {folder} were built anew while they were being scored",
            expected=f"fingerprint {fingerprint[:16]}…",
            got=f"{build.fingerprint[:16]}…",
            fix="run again: that plans a generation of the new features",
        )
    return build


@lru_cache(maxsize=2)
def _loaded(folder: Path, inode: int, mtime_ns: int) -> FeatureBuild:
    del inode, mtime_ns  # they tell a build from one that has taken its place
    return FeatureBuild.load(folder)


@lru_cache(maxsize=2)
def _catalogue(url: str) -> Catalogue:
    return Catalogue.open(url)
