"""The bytes of a file depend on its rows, not on the batches they come in."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from features.parquet_writer import ROWS_PER_GROUP, write_parquet

SCHEMA = pa.schema([("n", pa.int32()), ("name", pa.string())])


@given(rows=st.integers(0, 3 * ROWS_PER_GROUP), cuts=st.lists(st.floats(0, 1), max_size=6))
def test_equal_rows_make_equal_bytes_in_groups_of_one_size(rows: int, cuts: list[float]) -> None:
    table = pa.table({"n": np.arange(rows, dtype=np.int32), "name": [None] * rows}, schema=SCHEMA)
    places = sorted({0, rows, *(int(cut * rows) for cut in cuts)})
    pieces = [batch for a, b in pairwise(places) for batch in table.slice(a, b - a).to_batches()]
    with tempfile.TemporaryDirectory() as name:
        whole, parts = Path(name) / "whole.parquet", Path(name) / "parts.parquet"
        assert write_parquet(whole, table.to_batches(), SCHEMA) == rows
        assert write_parquet(parts, pieces, SCHEMA) == rows
        assert whole.read_bytes() == parts.read_bytes()
        with pq.ParquetFile(parts) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            assert file.read().equals(table)
    assert all(size == ROWS_PER_GROUP for size in sizes[:-1])
    assert 0 not in sizes
