"""Searches every place where a user's rows may lie, by other means than those that remove them: the proof of an erasure.

Tables are searched by PyIceberg and, file by file, by reading every value of the id column; the store by
looking at every key; all other files below home and warehouse by their bytes. In bytes, an id counts where
it is part of a key of the store, or stands as a word by itself; a number only where ``user`` stands before
it, and a text of less than four characters not at all, for they occur everywhere.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import EqualTo

from features.columns import as_id, require
from features.errors import StorageError
from features.schema import USER_ID
from features.table_files import open_table
from materialize.publish.feast_format import entity_key
from materialize.publish.postgres_copy import count_user
from materialize.publish.scored_tables import ScoredTables
from materialize.publish.store_erasure import search_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.settings import Settings

_ROWS = 1 << 20
_SHORTEST_WORD = 4
_DIGEST = 16


@dataclass(frozen=True)
class Searched:
    """One place, and what was found there.

    Attributes:
        place: In words.
        searched: How much was looked at.
        unit: Of ``searched`` and ``found``.
        found: How many of them are of the user.
        ours: Whether it is Prescore's to erase there; the source tables are not.
    """

    place: str
    searched: int
    unit: str
    found: int
    ours: bool = True


def search(settings: Settings, user: int | str) -> list[Searched]:
    """Search everything that Prescore writes.

    Raises:
        StoreError, StorageError: If a place cannot be searched.
    """
    keys, found = search_store(settings.store, settings.project, user)
    searched = [Searched("store", keys, "keys", found)]
    tables = ScoredTables.of(settings)
    for name in tables.names():
        table = tables.table(name)
        if USER_ID in table.schema().column_names:
            theirs = table.scan(row_filter=EqualTo(term=USER_ID, value=user)).count()
            searched.append(Searched(f"table {name}", table.scan().count(), "rows", theirs))
    searched += _search_files(settings, user)
    url = settings.sql_copy.url.get_secret_value()
    if url:
        rows, found = count_user(url, user, settings.sql_copy.into)
        searched.append(Searched("PostgreSQL copy", rows, "rows", found))
    return searched


def search_sources(settings: Settings, user: int | str) -> list[Searched]:
    """Count the user's rows in the tables that Prescore reads and does not own; one that cannot be read is left out."""
    searched = []
    wanted = {"events": settings.events.user, "users": settings.users.id}
    for role, column in wanted.items():
        path = getattr(settings, role).path
        if not path:
            continue
        connection = ibis.duckdb.connect()
        try:
            files = open_table(connection, path, role)
            ids = as_id(require(files, column, column), "int64" if isinstance(user, int) else "string")
            rows = files.table.count().to_pyarrow().as_py()
            found = files.table.filter(ids == user).count().to_pyarrow().as_py()
            searched.append(Searched(f"source table {role}", rows, "rows", found, ours=False))
        finally:
            connection.disconnect()
    return searched


def _search_files(settings: Settings, user: int | str) -> list[Searched]:
    pattern = _pattern(user, settings.project)
    rows = files = with_user = others = found_in = 0
    for path in _files(settings):
        try:
            if path.suffix in {".parquet", ".arrow", ".checked"}:
                searched, found = _search_columns(path, user)
                rows, with_user, files = rows + searched, with_user + found, files + 1
            else:
                others += 1
                found_in += _search_bytes(path, pattern)
        except FileNotFoundError:
            continue  # of a server at work, such as the log of the store
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(f"{path} cannot be searched", got=str(error)) from error
    return [
        Searched(f"{files:,} Parquet and Arrow files", rows, "rows", with_user),
        Searched("all other files", others, "files", found_in),
    ]


def _files(settings: Settings) -> Iterator[Path]:
    sources = {Path(s.path).absolute() for s in (settings.events, settings.users, settings.items) if s.path}
    seen: set[Path] = set()
    for root in (settings.home, settings.warehouse_path):
        for path in sorted(root.absolute().rglob("*")):
            if path.is_file() and path not in seen and not any(path.is_relative_to(s) for s in sources):
                seen.add(path)
                yield path


def _search_columns(path: Path, user: int | str) -> tuple[int, int]:
    """Rows with an id column, and how many are of the user; statistics are not trusted here."""
    rows = found = 0
    for batch in _id_batches(path):
        if pa.types.is_string(batch.type) == isinstance(user, str):
            rows += len(batch)
            found += pc.sum(pc.equal(batch, pa.scalar(user, batch.type))).as_py() or 0
    return rows, found


def _id_batches(path: Path) -> Iterator[pa.Array]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            if USER_ID in file.schema_arrow.names:
                for batch in file.iter_batches(_ROWS, columns=[USER_ID]):
                    yield batch[USER_ID]
        return
    with pa.memory_map(str(path)) as source:
        content = source.read_buffer()
    if path.suffix == ".checked":  # a digest stands behind the Arrow file
        content = content.slice(0, content.size - _DIGEST)
    with pa.ipc.open_file(pa.BufferReader(content)) as file:
        if USER_ID in file.schema.names:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)[USER_ID]


def _pattern(user: int | str, project: str) -> re.Pattern[bytes]:
    wanted = [re.escape(entity_key(user, project))]
    text = re.escape(str(user).encode())
    if isinstance(user, int) or user.isdigit():
        wanted.append(rb'user(?:_?id)?s?["\']?[\s:=/]{1,4}["\']?' + text + rb"(?![\w.])")
    elif len(user) >= _SHORTEST_WORD:
        wanted.append(rb"(?<!\w)" + text + rb"(?!\w)")
    return re.compile(b"|".join(wanted))


def _search_bytes(path: Path, pattern: re.Pattern[bytes]) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return pattern.search(data) is not None
