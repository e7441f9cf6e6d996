"""Rewrites the files that hold a user without that user: feature builds and scored blocks, with what refers to them.

Each function can be repeated: it finds out anew which files hold the user. A build is replaced as a whole, as
a new build would be. A scored block gets another name, the Iceberg table is pointed at it in one commit, and
the catalogue's record of the block follows; the old file is an orphan then, and collected.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from features.errors import StorageError
from features.feature_build import MANIFEST, FeatureBuild, FileEntry, list_builds
from features.parquet_writer import write_parquet
from features.schema import USER_ID
from features.scratch import scratch_folder
from materialize.generation.snapshots import block_file, load_block, save_block, snapshot_folder
from materialize.publish.scored_tables import RECOMMENDATIONS, ScoredTables, write_block_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.erasure_log import ErasureLog
    from materialize.generation.records import Block, Fence, Generation
    from materialize.settings import Settings

_log = structlog.get_logger()


def erase_from_builds(settings: Settings, users: Sequence[int | str]) -> int:
    """Rewrite every feature build that holds some of the users; rows removed.

    The manifest gets the new hashes and keeps its fingerprint, which is that of the sources: a build of the
    same sources is not made again, and the users stay out of it.

    Raises:
        StorageError: If a build is damaged or cannot be written; it stays as it was.
    """
    removed = 0
    # Opening the scratch folder also sweeps what killed processes have left there, rows included.
    with scratch_folder(settings.features_path / ".scratch") as scratch:
        for build in list_builds(settings.features_path):
            removed += _erase_from_build(build, users, scratch)
    return removed


def _erase_from_build(build: FeatureBuild, users: Sequence[int | str], scratch: Path) -> int:
    keyed = [name for name in build.manifest.files if USER_ID in pq.read_schema(build.path / name).names]
    held = {name: _count(build.file(name), users) for name in keyed}
    if not any(held.values()):
        return 0
    aside, files = scratch / build.path.name, dict(build.manifest.files)
    aside.mkdir()
    try:
        for name in files:
            if held.get(name):
                with pq.ParquetFile(build.path / name) as file:
                    rows = write_parquet(aside / name, _without(file, users), file.schema_arrow)
                files[name] = FileEntry.of(aside / name, rows)
            else:
                shutil.copyfile(build.path / name, aside / name)
        manifest = build.manifest.model_copy(update={"files": files})
        (aside / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        build.path.rename(scratch / f"{build.path.name}-before")
        aside.rename(build.path)
    except OSError as error:
        raise StorageError.of_writing(
            f"the feature build {build.cutoff_name}", error, build.path.parent
        ) from error
    _log.info("users erased from features", cutoff=build.cutoff_name, rows=sum(held.values()))
    return sum(held.values())


def erase_from_blocks(
    settings: Settings,
    catalogue: Catalogue,
    log: ErasureLog,
    fences: Mapping[str, Fence],
    user: int | str,
    erasure: int,
) -> int:
    """Rewrite every scored block, committed or not, that holds the user, and make table and catalogue follow.

    Args:
        settings: Where the files are.
        catalogue: Knows the blocks.
        log: Counts their rows anew.
        fences: Held, by model.
        user: The id.
        erasure: Number of the erasure: part of the new files' names.

    Returns:
        Rows removed.

    Raises:
        ConflictError: If a fence was lost.
        StorageError: If a file cannot be read or written; the table stays as it was.
    """
    tables = ScoredTables.of(settings)
    removed = 0
    for model, fence in fences.items():
        for generation in catalogue.generations(model):
            blocks = catalogue.blocks(generation.id)
            _erase_from_snapshots(snapshot_folder(settings, generation.id), generation.id, blocks, user)
            changed = {
                block.number: _without_user(tables, block, user, erasure)
                for block in blocks
                if block.path and _count(Path(block.path), [user])
            }
            removed += sum(block.rows - changed[n].rows for block in blocks if (n := block.number) in changed)
            if changed:
                catalogue.check_fence(fence)
                now = [changed.get(block.number, block) for block in blocks]
                if tables.files(generation.id):
                    tables.commit_generation(generation.id, [Path(b.path) for b in now if b.path])
                for block in changed.values():
                    catalogue.record_block(fence, block)
                log.recount(generation.id)
            if generation.state in {"building", "rejected"}:
                _drop_unrecorded(tables, catalogue, generation)
    return removed


def erase_from_tables(settings: Settings, catalogue: Catalogue, user: int | str) -> int:
    """Remove the user from the table ``users`` and from rows that no catalogue knows; forget the tables' history.

    Returns:
        Rows removed.

    Raises:
        StorageError: If the tables cannot be written.
    """
    return ScoredTables.of(settings).erase_user(user, building=catalogue.unfinished())


def ids_in(path: str) -> pa.ChunkedArray:
    """The column of user ids of a file; none if the file is gone.

    Raises:
        StorageError: If it is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=[USER_ID])[USER_ID]
    except FileNotFoundError:
        return pa.chunked_array([], pa.int64())
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: Exception) -> StorageError:
    return StorageError(
        f"{path} cannot be read", got=str(error), fix="remove what is damaged, then erase again"
    )


def _without_user(tables: ScoredTables, block: Block, user: int | str, erasure: int) -> Block:
    with pq.ParquetFile(block.path) as file:
        rows = pa.Table.from_batches(_without(file, [user]), file.schema_arrow)
    users = pc.sum(pc.equal(rows["rank"], 1)).as_py() or 0
    # A delta says of a user either which list is new, or that there is none any more.
    listed = block.users - users
    block = replace(
        block,
        users=users,
        lists=max(0, block.lists - listed),
        gone=max(0, block.gone - (not listed)),
        # The row of the store goes in a step of its own.
        accepted=None if block.accepted is None else block.accepted - listed,
    )
    if not rows.num_rows:
        return replace(block, path="", rows=0, sha256="")
    plain = Path(block.path).stem.partition("-erasure-")[0]
    path = tables.generation_folder(block.generation) / f"{plain}-erasure-{erasure}.parquet"
    file = write_block_file(path, block.generation, rows)
    return replace(block, path=str(path), rows=file.rows, sha256=file.sha256)


def _erase_from_snapshots(folder: Path, generation: str, blocks: Sequence[Block], user: int | str) -> None:
    """Take the user out of what the next delta starts from; a damaged snapshot goes, and a full run follows."""
    for block in blocks:
        if not block_file(folder, block.number).exists():
            continue
        try:
            snapshot = load_block(folder, generation, block.number)
        except StorageError:
            block_file(folder, block.number).unlink()
            continue
        kept = pc.not_equal(snapshot.user_ids, pa.scalar(user, snapshot.user_ids.type))
        if pc.all(kept).as_py():
            continue
        rows = np.asarray(kept)
        fewer = replace(
            snapshot,
            user_ids=snapshot.user_ids.filter(kept),
            digests=snapshot.digests[rows],
            signatures=snapshot.signatures[rows],
            item_index=snapshot.item_index[rows],
            scores=snapshot.scores[rows],
            counts=snapshot.counts[rows],
            complete=snapshot.complete[rows],
        )
        save_block(fewer, folder, generation, block.number)


def _drop_unrecorded(tables: ScoredTables, catalogue: Catalogue, generation: Generation) -> None:
    """Delete the files of an unfinished generation that neither table nor catalogue names: a crash has left them."""
    named = {Path(block.path) for block in catalogue.blocks(generation.id) if block.path}
    named |= set(tables.files(generation.id)) if RECOMMENDATIONS in tables.names() else set()
    for path in tables.generation_folder(generation.id).rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()


def _count(path: Path, users: Sequence[int | str]) -> int:
    """Rows of the users in a file; row groups whose statistics exclude them are not read."""
    try:
        with pq.ParquetFile(path) as file:
            kind = file.schema_arrow.field(USER_ID).type
            wanted = pa.array(users, kind)
            column = file.schema_arrow.get_field_index(USER_ID)
            count = 0
            for group in range(file.metadata.num_row_groups):
                statistics = file.metadata.row_group(group).column(column).statistics
                if statistics is not None and statistics.has_min_max:
                    low, high = statistics.min, statistics.max
                    if not any(low <= user <= high for user in users):
                        continue
                ids = file.read_row_group(group, columns=[USER_ID])[USER_ID]
                count += pc.sum(pc.is_in(ids, value_set=wanted)).as_py() or 0
            return count
    except FileNotFoundError:
        return 0
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _without(file: pq.ParquetFile, users: Sequence[int | str]) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(users, file.schema_arrow.field(USER_ID).type)
    for batch in file.iter_batches():
        yield batch.filter(pc.invert(pc.is_in(batch[USER_ID], value_set=wanted)))
