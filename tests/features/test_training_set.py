"""Training rows get the features of their cut-off, and nothing that could know their label."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.build import build_features
from features.errors import SchemaMismatchError
from features.feature_build import FeatureBuild, FileEntry, affinity_file
from features.schema import PAIR, USER, FeatureSchema
from features.training_set import training_matrix
from tests.features.conftest import CUTOFF, make_tables

if TYPE_CHECKING:
    from pathlib import Path

    from tests.features.conftest import ThreeTables

STARTS = (CUTOFF - timedelta(days=28), CUTOFF)


@pytest.fixture(scope="module", params=["int64", "string"])
def builds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[FeatureBuild]:
    folder = tmp_path_factory.mktemp("tables")
    tables = make_tables(folder)
    if request.param == "string":
        for table in (tables.events, tables.items):
            table["item_id"] = pa.array([f"item 'né' {n}" for n in table["item_id"].to_pylist()])
    settings = tables.write().settings
    return [build_features(settings, start, folder / "out") for start in STARTS]


def some_rows(builds: list[FeatureBuild], n: int = 300) -> pa.Table:
    rng = np.random.default_rng(5)
    stamps = [builds[k].cutoff for k in rng.integers(0, 2, n)]
    users = builds[0].read_users(columns=["user_id"])["user_id"].take(pa.array(rng.integers(0, 32, n)))
    items = builds[0].read_items(["item_id"], candidates_only=False)["item_id"]
    table = {"user_id": users, "item_id": items.take(pa.array(rng.integers(0, 22, n)))}
    return pa.table(
        {
            **table,
            "event_timestamp": pa.array(stamps, pa.timestamp("us", "UTC")),
            "label": pa.array([1.0] * n),
        }
    )


def by_hand(rows: pa.Table, builds: list[FeatureBuild], schema: FeatureSchema) -> np.ndarray:
    """The same by dictionaries."""
    tables = {}
    for build in builds:
        items = {r["item_id"]: r for r in build.read_items(candidates_only=False).to_pylist()}
        tables[build.cutoff] = (
            {r["user_id"]: r for r in build.read_users().to_pylist()},
            items,
            {(r["user_id"], r["shelf"]): r for r in build.read_affinity("shelf").to_pylist()},
            {(r["user_id"], r["item_id"]): r for r in build.read_pairs().to_pylist()},
        )
    out = np.full((rows.num_rows, len(schema.columns)), np.nan, np.float32)
    for n, row in enumerate(rows.to_pylist()):
        users, items, shelves, pairs = tables[row["event_timestamp"]]
        user, item = row["user_id"], row["item_id"]
        shelf = items[item]["shelf"]
        found = users[user] | items[item] | shelves.get((user, shelf), {}) | pairs.get((user, item), {})
        for place, column in enumerate(schema.columns):
            out[n, place] = column.encode(
                pa.array([found.get(column.name)], pa.string() if column.vocabulary else None)
            )[0]
    return out


def test_rows_get_the_features_of_their_own_cutoff(builds: list[FeatureBuild]) -> None:
    rows = some_rows(builds)
    matrix = training_matrix(rows, builds)
    schema = builds[-1].schema
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, by_hand(rows, builds, schema))
    assert np.isnan(matrix[:, schema.names.index("pair_events")]).any()
    narrow = FeatureSchema((schema.of(PAIR)[0], schema.of(USER)[3]), schema.user_id_type, schema.item_id_type)
    np.testing.assert_array_equal(
        training_matrix(rows, builds, narrow), matrix[:, [schema.names.index(name) for name in narrow.names]]
    )


def test_a_window_without_features_as_of_its_start_is_refused(builds: list[FeatureBuild]) -> None:
    rows = some_rows(builds)
    with pytest.raises(SchemaMismatchError, match="no features as of its start"):
        training_matrix(rows, builds[:1])
    with pytest.raises(SchemaMismatchError, match="no feature build"):
        training_matrix(rows, [])


def plant(build: FeatureBuild, file: str, column: str, value: datetime) -> FeatureBuild:
    """Spoil a column of a build's file, and its manifest so that the hash agrees."""
    path = build.path / file
    table = pq.read_table(path, partitioning=None)
    values = table[column].to_pylist()
    values[1] = value
    position = table.column_names.index(column)
    pq.write_table(
        table.set_column(position, column, pa.array(values, table.schema.field(column).type)), path
    )
    manifest = json.loads((build.path / "manifest.json").read_text())
    manifest["files"][file] = FileEntry.of(path, table.num_rows).model_dump()
    (build.path / "manifest.json").write_text(json.dumps(manifest))
    return FeatureBuild.load(build.path)


@pytest.mark.parametrize(
    ("file", "column", "told"),
    [
        ("user.parquet", "last_event", "knows the future"),
        ("user.parquet", "event_timestamp", "not as of its cut-off"),
        ("pair.parquet", "event_timestamp", "not as of its cut-off"),
        (affinity_file("shelf"), "event_timestamp", "not as of its cut-off"),
        ("item.parquet", "event_timestamp", "not as of its cut-off"),
    ],
)
def test_a_planted_leak_is_caught(
    tables: ThreeTables, tmp_path: Path, file: str, column: str, told: str
) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    rows = pa.table(
        {
            "user_id": [1, 2],
            "item_id": [100, 101],
            "event_timestamp": pa.array([CUTOFF] * 2, pa.timestamp("us", "UTC")),
        }
    )
    leaking = plant(build, file, column, CUTOFF + timedelta(hours=1))
    with pytest.raises(SchemaMismatchError, match=told):
        training_matrix(rows, [leaking])
