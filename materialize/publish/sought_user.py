"""Finds out which user a query is about, so that the files that cannot hold the user's rows need not be opened.

DuckDB itself says: it plans the query over empty tables of the same names, and the plan shows what every scan of them
looks for. Where all scans of scored rows look for one and the same user, rows of others have no part in the answer.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from features.feature_build import block_range
from features.schema import USER_ID, user_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyiceberg.table import FileScanTask

_LOOKS_FOR = re.compile(rf"{USER_ID}=(?:(-?\d+)|'([^']*)')")
"""What a plan says of a scan that looks for one user; an id with a quotation mark is left to all files."""

_BLOCK = re.compile(r"/block-(\d+)-of-(\d+)[^/]*$")


def sought_user(connection: duckdb.DuckDBPyConnection, query: str, rows: str) -> int | str | None:
    """The one user whose rows a query is about; ``None`` if it is about more, or if that cannot be told.

    Args:
        connection: With empty tables where the query's are to be.
        query: One SELECT.
        rows: What the names of tables with scored rows begin with.
    """
    # What knows that a table is empty would leave its scan out of the plan.
    connection.execute("SET disabled_optimizers = 'statistics_propagation,empty_result_pullup'")
    try:
        statements = connection.extract_statements(query)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            return None
        ((_, plan),) = connection.execute(f"EXPLAIN (FORMAT json) {query}").fetchall()
    except duckdb.Error:
        return None  # the query itself will say what is wrong with it
    users = {
        _sought(scan)
        for scan in _scans(json.loads(plan))
        if scan["Table"].rpartition(".")[2].startswith(rows)
    }
    return users.pop() if len(users) == 1 else None


def files_of(user: int | str, files: Sequence[FileScanTask]) -> list[FileScanTask]:
    """Those scored files that may hold a user's rows, as their names tell (:meth:`ScoredTables.block_path`)."""
    ids = pa.array([user], pa.int64() if isinstance(user, int) else pa.string())
    place = int(user_hash(ids)[0])
    found = []
    for file in files:
        block = _BLOCK.search(file.file.file_path)
        if block is not None:
            first, end = block_range(int(block[1]), int(block[2]))
            if not first <= place < end:
                continue
        found.append(file)  # another engine names its files otherwise
    return found


def _scans(nodes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        if "Table" in node["extra_info"]:
            yield node["extra_info"]
        yield from _scans(node["children"])


def _sought(scan: dict[str, Any]) -> int | str | None:
    filters = scan.get("Filters", [])
    for one in [filters] if isinstance(filters, str) else filters:
        if found := _LOOKS_FOR.fullmatch(one):
            return found[2] if found[1] is None else int(found[1])
    return None
