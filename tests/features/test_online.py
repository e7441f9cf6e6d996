"""The layout of online features and the rows that fill it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.build import build_features
from features.feature_build import HashRange, block_range
from features.online import online_views
from features.online_tables import online_tables
from tests.features.conftest import CUTOFF

if TYPE_CHECKING:
    from pathlib import Path

    from tests.features.conftest import ThreeTables

ARROW = {
    "float": pa.float32(),
    "string": pa.string(),
    "float_list": pa.list_(pa.float32()),
    "string_list": pa.list_(pa.string()),
    "int64_list": pa.list_(pa.int64()),
}


def test_rows_hold_what_the_build_holds(tables: ThreeTables, tmp_path: Path) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    views = {view.name: view.fields for view in online_views(build.schema)}
    assert list(views) == ["user_features", "affinity_shelf", "pair_features"]
    found = online_tables(build)
    for name, fields in views.items():
        assert found[name].column_names == ["user_id", *fields]
        assert [found[name].schema.field(f).type for f in fields] == [ARROW[kind] for kind in fields.values()]
    pairs = build.read_pairs().to_pylist()
    for row in found["pair_features"].to_pylist():
        own = [r for r in pairs if r["user_id"] == row["user_id"]]
        assert row["item_ids"] == [r["item_id"] for r in own]
        gaps = [np.nan if r["pair_gap_days"] is None else r["pair_gap_days"] for r in own]
        np.testing.assert_array_equal(row["pair_gap_days"], gaps)
    assert found["pair_features"].num_rows == len({r["user_id"] for r in pairs})
    assert found["user_features"].num_rows == 32


def test_blocks_together_are_the_whole(tables: ThreeTables, tmp_path: Path) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    whole = online_tables(build)
    blocks = [online_tables(build, block_range(b, 5)) for b in range(5)]
    for view, table in whole.items():
        together = pa.concat_tables([block[view] for block in blocks])
        assert repr(together.to_pylist()) == repr(table.to_pylist()), "repr, since NaN is not equal to itself"
    empty = online_tables(build, HashRange(7, 7))
    assert {view: table.num_rows for view, table in empty.items()} == dict.fromkeys(whole, 0)
    assert {v: t.schema for v, t in empty.items()} == {v: t.schema for v, t in whole.items()}


def test_the_layout_is_light() -> None:
    heavy = ["duckdb", "ibis", "feast", "pandas", "xgboost", "dask", "sqlalchemy"]
    script = f"import features.online, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
