"""A copy of one generation in PostgreSQL, for applications that have a database and no wish for another.

Each copy is a table of its own, filled by COPY; the view ``recommendations`` is moved to it in one transaction,
so a reader sees the old generation or the new one, whole. Tables of earlier copies are dropped with the move.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pyarrow.csv as pcsv
from psycopg import sql

from features.errors import NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VIEW = "recommendations"
_TABLES = "recommendations_of_"
_COLUMNS = ["generation", "user_id", "rank", "item_id", "score"]


def copy_generation(
    rows: Iterable[pa.Table],
    generation: str,
    url: str,
    schema: str = "prescore",
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Copy a generation and let the view show it. A generation that the view shows already is left alone.

    Args:
        rows: Of the generation: ``generation, user_id, rank, item_id, score``. Asked for only if they are needed.
        generation: Its id.
        url: ``postgresql://user:password@host/database``; SQLAlchemy's ``postgresql+psycopg://`` too.
        schema: Of the view and its tables; made if it is missing.
        progress: Told the rows copied so far, file by file.

    Returns:
        Rows that were copied; 0 if nothing had to be.

    Raises:
        NotFoundError: If the generation has no rows.
        StorageError: If the database refuses; the view shows what it showed before.
    """
    # An id may be longer than PostgreSQL's names.
    name = _TABLES + hashlib.sha256(generation.encode()).hexdigest()[:16]
    with _connected(url) as connection:
        return _copy(connection, rows, generation, schema, name, progress)


def delete_user(url: str, user_id: int | str, schema: str = "prescore") -> int:
    """Delete a user's rows from the copy, and vacuum its table so that they are gone from the disk; the rows deleted.

    Raises:
        StorageError: If the database refuses.
    """
    deleted = 0
    with _connected(url, autocommit=True) as connection:
        for table in _copies(connection, schema):
            theirs = sql.SQL("DELETE FROM {} WHERE user_id::text = %s").format(table)
            count = connection.execute(theirs, [str(user_id)]).rowcount
            if count:
                connection.execute(sql.SQL("VACUUM {}").format(table))
            deleted += count
    return deleted


def count_user(url: str, user_id: int | str, schema: str = "prescore") -> tuple[int, int]:
    """Rows of the copy, and how many are of a user.

    Raises:
        StorageError: If the database refuses.
    """
    rows = found = 0
    with _connected(url) as connection:
        for table in _copies(connection, schema):
            counts = sql.SQL("SELECT count(*), count(*) FILTER (WHERE user_id::text = %s) FROM {}")
            row = connection.execute(counts.format(table), [str(user_id)]).fetchone() or (0, 0)
            rows, found = rows + row[0], found + row[1]
    return rows, found


def user_ids(url: str, schema: str = "prescore") -> pa.Array:
    """Ids of all users in the copy.

    Raises:
        StorageError: If the database refuses.
    """
    with _connected(url) as connection:
        found: dict[int | str, None] = {}
        for table in _copies(connection, schema):
            rows = connection.execute(sql.SQL("SELECT DISTINCT user_id FROM {}").format(table))
            found |= dict.fromkeys(row[0] for row in rows)
    return pa.array(list(found))


@contextmanager
def _connected(url: str, *, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=autocommit) as connection:
            yield connection
    except psycopg.Error as error:
        raise StorageError(
            "the copy in PostgreSQL cannot be used",
            got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="check the database's address, rights and disk; the copy of before is still there",
        ) from error


def _copies(connection: psycopg.Connection[Any], schema: str) -> list[sql.Identifier]:
    found = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename LIKE %s",
        [schema, _TABLES.replace("_", r"\_") + "%"],
    )
    return [sql.Identifier(schema, name) for (name,) in found.fetchall()]


def _copy(
    connection: psycopg.Connection[Any],
    rows: Iterable[pa.Table],
    generation: str,
    schema: str,
    name: str,
    progress: Callable[[int], None],
) -> int:
    table, view = sql.Identifier(schema, name), sql.Identifier(schema, VIEW)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    # One copy at a time: a second one waits here and then finds the first one's result.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"{schema}.{VIEW}"])
    if _exists(connection, schema, name):
        return 0
    copied = 0
    for block in rows:
        if not copied:
            connection.execute(_create(table, block.schema))
        statement = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(table)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_csv(block.select(_COLUMNS)))
        copied += block.num_rows
        progress(copied)
    if not copied:
        raise NotFoundError(f"generation {generation} has no rows in the scored tables")
    connection.execute(sql.SQL("CREATE INDEX ON {} (user_id, rank)").format(table))
    connection.execute(sql.SQL("ANALYZE {}").format(table))
    # A view's columns cannot change their type in place, should the ids have.
    connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(view))
    connection.execute(sql.SQL("CREATE VIEW {} AS SELECT * FROM {}").format(view, table))
    for old in _copies(connection, schema):
        if old != table:
            connection.execute(sql.SQL("DROP TABLE {}").format(old))
    return copied


def _exists(connection: psycopg.Connection[Any], schema: str, name: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = %s", [schema, name]
    )
    return found.fetchone() is not None


def _create(table: sql.Identifier, schema: pa.Schema) -> sql.Composed:
    def kind(column: str) -> sql.SQL:
        return sql.SQL("bigint" if pa.types.is_integer(schema.field(column).type) else "text")

    return sql.SQL(
        "CREATE TABLE {} (generation text, user_id {}, rank integer, item_id {}, score real)"
    ).format(table, kind("user_id"), kind("item_id"))


def _csv(block: pa.Table) -> bytes:
    sink = io.BytesIO()
    pcsv.write_csv(block, sink, pcsv.WriteOptions(include_header=False))
    return sink.getvalue()
