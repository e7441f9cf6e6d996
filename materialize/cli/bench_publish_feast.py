"""Feast's own ways into Redis, as contestants of ``prescore bench publish``."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Float32, Int64, String

from materialize.cli.bench_publish_race import PROJECT, VIEW, Contestant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

COLUMNS = 10
DATABASE = 1
"""Of Feast's ways: it is emptied between rounds, and what the other contestants overwrite must stay."""

ENGINES = {
    "feast materialize, prescore engine": "materialize.publish.feast_engine.PrescoreEngine",
    "feast materialize, feast's engine": "local",
}
ENGINE_SHARE = {"feast materialize, prescore engine": 2.0, "feast materialize, feast's engine": 0.2}
"""Rows per user of the bench; Feast's engine gets fewer, or a round would take minutes. Rates are per row."""

_ENTITY = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)


def feast_contestants(folder: Path, port: int, lists: pa.Table, share: Mapping[str, int]) -> list[Contestant]:
    """``write_to_online_store`` and ``materialize`` of the same lists.

    Args:
        folder: For files; empty.
        port: Of the server.
        lists: As :func:`materialize.publish.published_lists.lists_table` makes them.
        share: By name, what fraction of the users (one in so many) is written.
    """
    fields = {"item_ids": Array(Int64), "scores": Array(Float32), "generation": String}
    contestants = []
    for name, one_in in share.items():
        some = lists.slice(0, max(1, lists.num_rows // one_in))
        store = _store(folder / name.replace(" ", "-"), port, "local", some, fields)
        if name == "feast materialize":
            write = _materializing(store)
        else:
            frame = some.to_pandas()

            def write(store: FeatureStore = store, frame: Any = frame) -> None:
                frame["event_timestamp"] = dt.datetime.now(dt.UTC)
                with _silence():
                    store.write_to_online_store(VIEW, df=frame)

        contestants.append(Contestant(name, some.num_rows, write))
    return contestants


def feast_engine_contestants(folder: Path, port: int, users: int) -> list[Contestant]:
    """``feast materialize`` of a view of ten numbers, by this project's engine and by Feast's."""
    random = np.random.default_rng(0)
    contestants = []
    for name, engine in ENGINES.items():
        rows = int(users * ENGINE_SHARE[name])
        columns = {f"f{n}": random.standard_normal(rows, np.float32) for n in range(COLUMNS)}
        table = pa.table({"user_id": np.arange(rows), **columns})
        fields = dict.fromkeys(columns, Float32)
        store = _store(folder / name.replace(" ", "-"), port, engine, table, fields)
        contestants.append(Contestant(name, rows, _materializing(store)))
    return contestants


def _store(folder: Path, port: int, engine: str, table: pa.Table, fields: Mapping[str, Any]) -> FeatureStore:
    folder.mkdir()
    file = folder / "rows.parquet"
    stamps = pa.repeat(pa.scalar(dt.datetime.now(dt.UTC), pa.timestamp("us", "UTC")), table.num_rows)
    pq.write_table(table.append_column("event_timestamp", stamps), file)
    with _silence():
        store = FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                registry=str(folder / "registry.db"),
                online_store={"type": "redis", "connection_string": f"127.0.0.1:{port},db={DATABASE}"},
                offline_store={"type": "duckdb"},
                batch_engine={"type": engine},
                entity_key_serialization_version=3,
            )
        )
        source = FileSource(path=str(file), timestamp_field="event_timestamp")
        schema = [Field(name=name, dtype=kind) for name, kind in fields.items()]
        store.apply([_ENTITY, FeatureView(name=VIEW, entities=[_ENTITY], schema=schema, source=source)])
    return store


def _materializing(store: FeatureStore) -> Callable[[], None]:
    def write() -> None:
        import redis

        now = dt.datetime.now(dt.UTC)
        # Feast skips rows that are not newer than what is stored.
        address = store.config.online_store.connection_string.partition(",")[0]
        with redis.Redis.from_url(f"redis://{address}/{DATABASE}") as client:
            client.flushdb()
        with _silence():
            store.materialize(now - dt.timedelta(days=1), now)

    return write


@contextlib.contextmanager
def _silence() -> Any:
    """Feast prints progress and warns of itself."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
