"""SQL over the scored tables: DuckDB in memory, views on the files that PyIceberg plans, reading only.

| view | rows |
| --- | --- |
| ``recommendations`` | of the live generation |
| ``recommendations_all`` | of every retained generation; of a delta, the lists that differ from its parent's |
| ``recommendations_joined`` | of ``recommendations``, with what the tables below say of item, user, generation and model |
| ``items``, ``users``, ``models``, ``generations`` | as of the last publication |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
from pyiceberg.expressions import EqualTo

from features.errors import CallerError, NotFoundError, StorageError
from materialize.publish.iceberg_files import local_path
from materialize.publish.scored_tables import JOINED, RECOMMENDATIONS, ScoredTables
from materialize.publish.sought_user import files_of, sought_user

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa
    from pyiceberg.table import DataScan, FileScanTask

    from materialize.settings import Settings

_ROWS = "recommendations_rows"
"""View of everything in the table's files; with a number behind it, of one generation's."""

_JOIN = """
CREATE VIEW recommendations_joined AS
SELECT r.*, i.* EXCLUDE (item_id), u.* EXCLUDE (user_id),
  g.kind, g.feature_cutoff, g.published_at, g.model_id, m.name AS model
FROM recommendations r
LEFT JOIN items i USING (item_id) LEFT JOIN users u USING (user_id)
LEFT JOIN generations g ON g.id = r.generation LEFT JOIN models m ON m.id = g.model_id
"""

_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.RELATION}


def read(sql: str, settings: Settings, generation: str | Sequence[str] | None = None) -> pa.Table:
    """Answer one query.

    Args:
        sql: A SELECT; DuckDB's dialect.
        settings: Say where the tables are.
        generation: Id of the generation behind ``recommendations``. A sequence for a delta: its own id, then
            its parents' ids up to the full one; a user's rows are those of the first that has any. ``None``:
            nothing is live, and the view is missing.

    Raises:
        CallerError: If the statement would write, or is not valid SQL; the text says why.
        NotFoundError: If it asks for a table that does not exist.
        StorageError: If the tables cannot be read.
    """
    tables = ScoredTables.of(settings)
    chain = [generation] if isinstance(generation, str) else list(generation or ())
    scans = {name: tables.table(name).scan() for name in tables.names() if name in {RECOMMENDATIONS, *JOINED}}
    user = _user(sql, scans, chain)
    with duckdb.connect(":memory:") as connection:
        # A view reads some files twice, and files never change under their name: each footer is parsed once.
        connection.execute("LOAD parquet")
        connection.execute("SET parquet_metadata_cache = true")
        present = [name for name in scans if user is None or _concerns(sql, name)]
        for name in present:
            if name == RECOMMENDATIONS:
                _view_rows(connection, scans[name], chain, user)
            else:
                _view(connection, name, scans[name], list(scans[name].plan_files()))
        _combine(connection, present, chain)
        # No extension can be fetched, no other file read, and no statement can take that back.
        connection.execute(f"SET allowed_directories = [{_quoted(str(tables.folder))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return _run(connection, sql)


def _user(sql: str, scans: Mapping[str, DataScan], chain: Sequence[str]) -> int | str | None:
    """The one user whom a query is about, if there is one."""
    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as empty:
        for name, scan in scans.items():
            first, *others = _names(name, chain)
            empty.from_arrow(_nothing(scan)).create(first)
            for other in others:
                empty.execute(f"CREATE VIEW {other} AS FROM {first}")
        _combine(empty, scans, chain)
        return sought_user(empty, sql, _ROWS)


def _concerns(sql: str, table: str) -> bool:
    """Whether a query about one user can need a table: those to join with are asked for by name."""
    said = sql.lower()
    return table == RECOMMENDATIONS or table in said or "recommendations_joined" in said


def _names(table: str, chain: Sequence[str]) -> list[str]:
    """What a table of the warehouse is called here: the scored rows of all generations, then of each of the chain."""
    return [table] if table != RECOMMENDATIONS else [_ROWS, *(f"{_ROWS}_{n}" for n in range(len(chain)))]


def _view_rows(
    connection: duckdb.DuckDBPyConnection, scan: DataScan, chain: Sequence[str], user: int | str | None
) -> None:
    """Views of the files of scored rows; where a query is about one user, of those that may hold the user's."""
    tasks = list(scan.plan_files())
    if user is not None:
        tasks = files_of(user, tasks)
    everything, *each = _names(RECOMMENDATIONS, chain)
    _view(connection, everything, scan, tasks)
    for view, generation in zip(each, chain, strict=True):
        # Only its own files: the footers of all other generations' files would be read for every query.
        own = [task for task in tasks if task.file.partition[0] == generation]
        _view(connection, view, scan.filter(EqualTo(term="generation", value=generation)), own)


def _combine(connection: duckdb.DuckDBPyConnection, present: Collection[str], chain: Sequence[str]) -> None:
    """The views that people ask, over those of :func:`_names`."""
    if RECOMMENDATIONS not in present:
        return
    # Rank 0 says that a delta has removed a user's list.
    connection.execute(f"CREATE VIEW recommendations_all AS FROM {_ROWS} WHERE rank > 0")
    if chain:
        connection.execute(_live(len(chain)))
        if set(JOINED) <= set(present):
            connection.execute(_JOIN)


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer of one reading statement."""
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _READING:
            raise CallerError(
                "only reading is allowed",
                expected="one SELECT",
                got=", ".join(s.type.name for s in statements) or "nothing",
            )
        return connection.execute(statements[0]).to_arrow_table()
    except duckdb.CatalogException as error:
        raise NotFoundError("the query names something that does not exist", got=str(error)) from error
    except duckdb.Error as error:
        raise CallerError("the query cannot be answered", got=str(error)) from error


def _view(
    connection: duckdb.DuckDBPyConnection, view: str, scan: DataScan, tasks: Sequence[FileScanTask]
) -> None:
    """A view of what a scan finds, whose files are planned."""
    if not tasks:
        connection.register(view, _nothing(scan))
        return
    if any(task.delete_files for task in tasks):
        # Another engine may have written row-level deletes, which only a full Iceberg reader resolves.
        connection.register(view, scan.to_arrow())
        return
    files = ", ".join(_quoted(str(local_path(task.file.file_path))) for task in tasks)
    try:
        connection.execute(f"CREATE VIEW {view} AS FROM read_parquet([{files}], hive_partitioning = false)")
    except duckdb.Error as error:
        raise StorageError(
            "the scored tables cannot be read", got=str(error), fix="publish a new generation"
        ) from error


def _nothing(scan: DataScan) -> pa.Table:
    """No rows of what a scan reads."""
    return scan.projection().as_arrow().empty_table()


def _live(generations: int) -> str:
    """The newest of some generations that says anything of a user says which list the user has.

    One join, so that a condition on the user reaches every file.
    """
    if generations == 1:
        return f"CREATE VIEW recommendations AS FROM {_ROWS}_0 WHERE rank > 0"
    rows = " UNION ALL ".join(
        f"SELECT *, {number} AS age FROM {_ROWS}_{number} WHERE rank > 0"  # noqa: S608
        for number in range(generations)
    )
    said = " UNION ALL ".join(
        f"SELECT user_id AS said_of, {number} AS age FROM {_ROWS}_{number} WHERE rank <= 1"  # noqa: S608
        for number in range(generations - 1)
    )
    return f"""
        CREATE VIEW recommendations AS SELECT r.* EXCLUDE (age) FROM ({rows}) r
        LEFT JOIN (SELECT said_of, min(age) AS age FROM ({said}) GROUP BY said_of) n ON r.user_id = n.said_of
        WHERE r.age = coalesce(n.age, {generations - 1})
    """  # noqa: S608 - of numbers and names of our own


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
