"""Writes a stream of sorted record batches as one Parquet file whose bytes depend on the rows alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROWS_PER_GROUP = 65_536
"""Rows of a row group: the least that a block of users reads."""


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write batches of any size in row groups of fixed size; returns the number of rows.

    The writer's options are fixed, so equal rows in equal order give equal bytes with one release of pyarrow.
    """
    rows = 0
    with pq.ParquetWriter(
        path, schema, version="2.6", compression="zstd", compression_level=1, write_statistics=True
    ) as writer:
        for table in _in_groups(batches, schema):
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            rows += table.num_rows
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return rows


def _in_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        if count >= ROWS_PER_GROUP:
            table = pa.Table.from_batches(pending, schema)
            whole = count - count % ROWS_PER_GROUP
            yield table.slice(0, whole)
            pending, count = table.slice(whole).combine_chunks().to_batches(), count - whole
    if pending:  # a row group without rows would have no statistics
        yield pa.Table.from_batches(pending, schema)
