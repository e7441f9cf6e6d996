"""Feast's own engine is the oracle: the same view, materialized by both, is the same bytes in Redis."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map,
    PdfBytes,
    ScalarMap,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
    ZonedTimestamp,
)

from materialize.publish import feast_engine
from materialize.publish.feast_engine import PrescoreEngineConfig, store_url

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast and what it imports warn of themselves

T0 = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
ENGINE = "materialize.publish.feast_engine.PrescoreEngine"
ROWS = 60


def values(row: int) -> dict[str, Any]:
    """One row with every type; some of it missing."""
    some = row % 7 != 3
    return {
        "i32": row - 30,
        "i64": (row - 30) * 10**15,
        "f32": float("nan") if row % 5 == 0 else row / 3,
        "f64": row / 7 if some else None,
        "flag": row % 2 == 0 if some else None,
        "text": f"ü{row}" if some else None,
        "raw": bytes([row]) * row if some else None,
        "at": T0 + dt.timedelta(microseconds=row) if some else None,
        "i32s": list(range(row % 4)),
        "i64s": [row, -row] if some else None,
        "f32s": [row / 3] * (row % 4),
        "f64s": [row / 3, float("nan")],
        "flags": [True, row % 2 == 0],
        "texts": ["a", None, "ü" * row] if some else [],
        "raws": [b"", b"\x00"],
        "ats": [T0, T0 - dt.timedelta(days=40_000, microseconds=row)],
        "json": json.dumps({"row": row}),
        "uuid": str(uuid.UUID(int=row)),
        "decimal": str(decimal.Decimal(row) / 8),
        "map": json.dumps({"row": str(row)}),
        "set": [row, row + 1],
        **rare_values(row),
    }


def rare_values(row: int) -> dict[str, Any]:
    """One row with the types that Feast itself encodes."""
    name, price = str(uuid.UUID(int=row)), str(decimal.Decimal(row) / 8)
    return {
        "pdf": b"%PDF" + bytes([row]),
        "image": bytes([row, 0]),
        "maps": json.dumps([{"row": str(row)}]),
        "jsons": [json.dumps({"row": row})],
        "struct": {"row": row},
        "structs": [{"row": row}, {"row": 1}],
        "time_uuid": name,
        "uuids": [name],
        "time_uuids": [name],
        "decimals": [price, "1.50"],
        "lists": [[row], [1, 2]],
        "sets": [[row], [1, 2]],
        "i32_set": [row, row + 1],
        "f32_set": [row / 3],
        "f64_set": [row / 3],
        "flag_set": [row % 2 == 0],
        "text_set": ["a", f"ü{row}"],
        "raw_set": [b"a", bytes([row])],
        "at_set": [T0 + dt.timedelta(minutes=row)],
        "uuid_set": [name],
        "time_uuid_set": [name],
        "decimal_set": [price],
        "list_set": [[row], [1, 2]],
    }


FIELDS: dict[str, Any] = {
    "i32": Int32,
    "i64": Int64,
    "f32": Float32,
    "f64": Float64,
    "flag": Bool,
    "text": String,
    "raw": Bytes,
    "at": UnixTimestamp,
    "i32s": Array(Int32),
    "i64s": Array(Int64),
    "f32s": Array(Float32),
    "f64s": Array(Float64),
    "flags": Array(Bool),
    "texts": Array(String),
    "raws": Array(Bytes),
    "ats": Array(UnixTimestamp),
    "json": Json,
    "uuid": Uuid,
    "decimal": Decimal,
    "map": Map,
    "set": Set(Int64),
    "pdf": PdfBytes,
    "image": ImageBytes,
    "maps": Array(Map),
    "jsons": Array(Json),
    "struct": Struct({"row": Int64}),
    "structs": Array(Struct({"row": Int64})),
    "time_uuid": TimeUuid,
    "uuids": Array(Uuid),
    "time_uuids": Array(TimeUuid),
    "decimals": Array(Decimal),
    "lists": Array(Array(Int64)),
    "sets": Array(Set(Int64)),
    "i32_set": Set(Int32),
    "f32_set": Set(Float32),
    "f64_set": Set(Float64),
    "flag_set": Set(Bool),
    "text_set": Set(String),
    "raw_set": Set(Bytes),
    "at_set": Set(UnixTimestamp),
    "uuid_set": Set(Uuid),
    "time_uuid_set": Set(TimeUuid),
    "decimal_set": Set(Decimal),
    "list_set": Set(Array(Int64)),
}
ARROW = {
    "i32": pa.int32(),
    "f32": pa.float32(),
    "i32s": pa.list_(pa.int32()),
    "f32s": pa.list_(pa.float32()),
    "i32_set": pa.list_(pa.int32()),
    "f32_set": pa.list_(pa.float32()),
    "scalars": pa.map_(pa.string(), pa.int64()),
    "zoned": pa.timestamp("us", "Europe/Berlin"),
    "native": pa.map_(pa.string(), pa.string()),
}
REFUSED: dict[str, tuple[Any, object]] = {
    "scalars": (ScalarMap, [("a", 1)]),
    "zoned": (ZonedTimestamp, T0),
    "native": (Map, [("a", "b")]),
    "wide": (Int32, 2**40),
    "words": (Bytes, "text"),
}
"""Features that neither engine can take out of Parquet files, by a type and a value of each."""


class Repo:
    """A Feast store with a view, over one Parquet file, that either engine materializes."""

    def __init__(self, folder: Path, store_url: str, engine: str, offline: str = "duckdb") -> None:
        self.file = folder / "rows.parquet"
        folder.mkdir()
        self.config = {
            "project": "shop",
            "provider": "local",
            "registry": str(folder / "registry.db"),
            "online_store": {"type": "redis", "connection_string": store_url.removeprefix("redis://")},
            "offline_store": {"type": offline},
            "batch_engine": {"type": engine},
            "entity_key_serialization_version": 3,
        }
        self.store = FeatureStore(config=RepoConfig(**self.config))

    def write(self, rows: list[dict[str, Any]]) -> None:
        names = list(rows[0])
        columns = {name: pa.array([row[name] for row in rows], ARROW.get(name)) for name in names}
        pq.write_table(pa.table(columns), self.file)

    def apply(self, entities: dict[str, ValueType], fields: dict[str, Any]) -> None:
        source = FileSource(path=str(self.file), timestamp_field="stamp", created_timestamp_column="created")
        found = [Entity(name=n, join_keys=[n], value_type=kind) for n, kind in entities.items()]
        schema = [Field(name=name, dtype=kind) for name, kind in fields.items()]
        view = FeatureView(name="view", entities=found, schema=schema, source=source, ttl=None)
        self.store.apply([*found, view])

    def materialize(self) -> None:
        self.store.materialize(T0 - dt.timedelta(days=1), T0 + dt.timedelta(days=30))


@pytest.fixture
def dump(client: Any) -> Any:
    """Takes everything out of the store."""

    def take() -> dict[bytes, dict[bytes, bytes]]:
        found = {key: client.hgetall(key) for key in client.scan_iter()}
        client.flushall()
        return found

    return take


@pytest.fixture(params=["int64", "string", "several"])
def entities(request: pytest.FixtureRequest) -> dict[str, ValueType]:
    kinds = {
        "int64": {"user_id": ValueType.INT64},
        "string": {"user_id": ValueType.STRING},
        "several": {"user_id": ValueType.INT32, "shop_id": ValueType.STRING},
    }
    return kinds[request.param]


def history(entities: dict[str, ValueType]) -> list[dict[str, Any]]:
    """Several rows per entity, some at the same instant and told apart by their creation, in a mixed order."""
    rows = []
    for row in range(ROWS):
        number = row % 25
        ids = {n: f"id {number}" if kind == ValueType.STRING else number for n, kind in entities.items()}
        when = T0 + dt.timedelta(seconds=row // 50, microseconds=number)
        rows.append({**ids, "stamp": when, "created": T0 + dt.timedelta(hours=row), **values(row)})
    return [rows[i] for i in np.random.default_rng(1).permutation(ROWS)]


@pytest.mark.parametrize("offline", ["duckdb", "file"])
def test_every_type_is_stored_as_by_feast(
    tmp_path: Path, store_url: str, dump: Any, entities: dict[str, ValueType], offline: str
) -> None:
    dumps = []
    for name, engine in (("ours", ENGINE), ("theirs", "local")):
        repo = Repo(tmp_path / name, store_url, engine, offline)
        repo.write(history(entities))
        repo.apply(entities, FIELDS)
        repo.materialize()
        if name == "ours":
            row = {n: "id 3" if kind == ValueType.STRING else 3 for n, kind in entities.items()}
            found = repo.store.get_online_features([f"view:{f}" for f in FIELDS], [row]).to_dict()
            assert found["i64s"] == [[53, -53]]
            assert found["set"] == [{53, 54}]
        dumps.append(dump())
    assert len(dumps[0]) == 25
    assert dumps[0] == dumps[1]


def test_no_type_of_feasts_is_left_out() -> None:
    kinds = {kind.to_value_type() for kind in FIELDS.values()}
    kinds |= {kind.to_value_type() for kind, _ in REFUSED.values()}
    assert kinds == set(ValueType) - {ValueType.UNKNOWN, ValueType.NULL}


@pytest.mark.parametrize("engine", [ENGINE, "local"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_feast_cannot_write_is_refused_before_any_write(
    tmp_path: Path, store_url: str, client: Any, engine: str, name: str
) -> None:
    repo, (kind, value) = Repo(tmp_path / "repo", store_url, engine), REFUSED[name]
    repo.write([{"user_id": n, "stamp": T0, "created": T0, "good": n, name: value} for n in range(3)])
    repo.apply({"user_id": ValueType.INT64}, {"good": Int64, name: kind})
    said = rf"feature '{name}' cannot be written.*Expected: .*{kind.to_value_type().name}.*To do:"
    with pytest.raises(Exception, match=said if engine == ENGINE else ""):
        repo.materialize()
    assert client.dbsize() == 0


@pytest.mark.parametrize(("engine", "first_rows"), [(ENGINE, 1024), (ENGINE, 2), ("local", 0)])
def test_only_newer_rows_replace(
    tmp_path: Path, store_url: str, engine: str, first_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feast_engine, "_FIRST_ROWS", first_rows)
    monkeypatch.setattr(feast_engine, "_ROWS", 1)
    repo = Repo(tmp_path / "repo", store_url, engine)
    repo.write([{"user_id": n, "stamp": T0, "created": T0, "n": n} for n in range(4)])
    repo.apply({"user_id": ValueType.INT64}, {"n": Int64})
    repo.materialize()
    moments = [T0 - dt.timedelta(microseconds=1), T0, T0 + dt.timedelta(microseconds=1)]
    repo.write([{"user_id": n, "stamp": t, "created": T0, "n": n + 100} for n, t in enumerate(moments)])
    repo.materialize()
    found = repo.store.get_online_features(["view:n"], [{"user_id": n} for n in range(5)]).to_dict()
    assert found["n"] == [0, 1, 102, 3, None]


@pytest.mark.parametrize("engine", [ENGINE, "local"])
def test_increments_go_on_from_the_watermark(tmp_path: Path, store_url: str, engine: str) -> None:
    repo, hour = Repo(tmp_path / "repo", store_url, engine), dt.timedelta(hours=1)
    repo.write([{"user_id": 1, "stamp": T0, "created": T0, "n": 7}])
    repo.apply({"user_id": ValueType.INT64}, {"n": Int64})
    repo.store.materialize_incremental(T0 + hour)
    moments = {1: T0 + 2 * hour, 2: T0 + 2 * hour, 3: T0}  # the last one comes too late
    repo.write([{"user_id": u, "stamp": at, "created": at, "n": 7 + u} for u, at in moments.items()])
    repo.store.materialize_incremental(T0 + 3 * hour)
    found = repo.store.get_online_features(["view:n"], [{"user_id": u} for u in moments]).to_dict()
    assert found["n"] == [8, 9, None]


def test_the_command_line_finds_the_engine(tmp_path: Path, store_url: str) -> None:
    repo = Repo(tmp_path / "repo", store_url, ENGINE)
    repo.write([{"user_id": 1, "stamp": T0, "created": T0, "n": 7}])
    repo.apply({"user_id": ValueType.INT64}, {"n": Int64})
    (tmp_path / "repo" / "feature_store.yaml").write_text(json.dumps(repo.config))
    feast = str(Path(sys.executable).with_name("feast"))
    command = [feast, "materialize", "2023-12-01T00:00:00", "2024-02-01T00:00:00"]
    # Without the folder of metrics that Feast has given this process, and may have removed.
    environment = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    done = subprocess.run(
        command, cwd=tmp_path / "repo", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert repo.store.get_online_features(["view:n"], [{"user_id": 1}]).to_dict()["n"] == [7]


def test_entities_expire_where_the_store_says_so(tmp_path: Path, store_url: str, client: Any) -> None:
    repo = Repo(tmp_path / "repo", store_url, ENGINE)
    repo.config["online_store"] = {**repo.config["online_store"], "key_ttl_seconds": 100}  # type: ignore[dict-item]
    repo.store = FeatureStore(config=RepoConfig(**repo.config))
    repo.write([{"user_id": 1, "stamp": T0, "created": T0, "n": 7}])
    repo.apply({"user_id": ValueType.INT64}, {"n": Int64})
    repo.materialize()
    (key,) = client.scan_iter()
    assert 90 < client.ttl(key) <= 100


def test_a_failed_write_fails_the_command_and_keeps_the_watermark(
    tmp_path: Path, store_url: str, client: Any
) -> None:
    repo = Repo(tmp_path / "repo", store_url, ENGINE)
    repo.write([{"user_id": 1, "stamp": T0, "created": T0, "n": 7}])
    repo.apply({"user_id": ValueType.INT64}, {"n": Int64})
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match="out of memory"):
            repo.materialize()
    finally:
        client.config_set("maxmemory", 0)
    assert repo.store.get_feature_view("view").materialization_intervals == []


@pytest.mark.parametrize(
    ("kind", "connection", "url"),
    [
        ("redis", "h:1", "redis://h:1"),
        ("redis", "h:1,ssl=true,username=u,password=p@/,db=2", "rediss://u:p%40%2F@h:1?db=2"),
        ("redis_cluster", "h:1,g:2,skip_full_coverage_check=true", "redis+cluster://h:1,g:2"),
        ("redis", 'localhost:0,unix_socket_path="/run/s",db=1', "unix:///run/s?db=1"),
        ("redis_sentinel", "h:1,g:2,password=1", "redis+sentinel://:1@h:1,g:2/mymaster"),
    ],
)
def test_urls_of_feasts_connection_strings(kind: str, connection: str, url: str) -> None:
    assert store_url(RedisOnlineStoreConfig(redis_type=kind, connection_string=connection)) == url


def test_the_configuration_class_stands_beside_the_engine() -> None:
    assert PrescoreEngineConfig().type == ENGINE
