"""Feast's own ways into Redis, as contestants of ``prescore bench publish``."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Float32, Int64, String

from materialize.cli.bench_publish_race import PROJECT, VIEW, Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = 10
DATABASE = 1
"""Of Feast's ways: it is emptied between rounds, and what the other contestants overwrite must stay."""

OFFLINE_STORES = {"Feast's default offline store, file": "file", "DuckDB offline store": "duckdb"}

PRESCORE, LOCAL = "materialize.publish.feast_engine.PrescoreEngine", "local"
ENGINES = {
    "prescore's engine": (PRESCORE, 2.0, False),
    "feast's engine": (LOCAL, 0.2, False),
    "prescore's engine, every row there already": (PRESCORE, 2.0, True),
}
"""Engine, rows per user of the bench, and whether newer rows replace what is there, or an empty database is filled.
Feast's engine gets fewer rows, or a round would take minutes; rates are per row."""

_ENTITY = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)


def feast_contestants(folder: Path, port: int, lists: pa.Table, one_in: int) -> list[Contestant]:
    """``write_to_online_store`` and, from each offline store, ``materialize`` of the same lists.

    Args:
        folder: For files; empty.
        port: Of the server.
        lists: As :func:`materialize.publish.published_lists.lists_table` makes them.
        one_in: Which fraction of the users is written.
    """
    some = lists.slice(0, max(1, lists.num_rows // one_in))
    fields = {"item_ids": Array(Int64), "scores": Array(Float32), "generation": String}
    repositories = {
        name: _Repository.of(folder / f"lists-{offline}", port, LOCAL, offline, some, fields)
        for name, offline in OFFLINE_STORES.items()
    }
    direct, frame = next(iter(repositories.values())).store, some.to_pandas()

    def write() -> None:
        frame["event_timestamp"] = dt.datetime.now(dt.UTC)
        with _silence():
            direct.write_to_online_store(VIEW, df=frame)

    return [
        Contestant("feast write_to_online_store", some.num_rows, write),
        *(
            Contestant(f"feast materialize ({name})", some.num_rows, found.materialize, found.empty)
            for name, found in repositories.items()
        ),
    ]


def feast_engine_contestants(folder: Path, port: int, users: int, offline: str) -> list[Contestant]:
    """``feast materialize`` of a view of ten numbers from one offline store, by this project's engine and Feast's."""
    random = np.random.default_rng(0)
    contestants: list[Contestant] = []
    for name, (engine, share, there) in ENGINES.items():
        rows = int(users * share)
        columns = {f"f{n}": random.standard_normal(rows, np.float32) for n in range(COLUMNS)}
        table = pa.table({"user_id": np.arange(rows), **columns})
        place = folder / f"engine-{offline}-{len(contestants)}"
        found = _Repository.of(place, port, engine, offline, table, dict.fromkeys(columns, Float32))
        prepare = found.fill if there else found.empty
        contestants.append(Contestant(name, rows, found.materialize, prepare))
    return contestants


@dataclass(frozen=True)
class _Repository:
    """A Feast repository with one view over one Parquet file."""

    store: FeatureStore
    table: pa.Table
    file: Path

    @classmethod
    def of(
        cls, folder: Path, port: int, engine: str, offline: str, table: pa.Table, fields: Mapping[str, Any]
    ) -> _Repository:
        folder.mkdir()
        with _silence():
            store = FeatureStore(
                config=RepoConfig(
                    project=PROJECT,
                    provider="local",
                    registry=str(folder / "registry.db"),
                    online_store={"type": "redis", "connection_string": f"127.0.0.1:{port},db={DATABASE}"},
                    offline_store={"type": offline},
                    batch_engine={"type": engine},
                    entity_key_serialization_version=3,
                )
            )
            found = cls(store, table, folder / "rows.parquet")
            found.renew()
            source = FileSource(path=str(found.file), timestamp_field="event_timestamp")
            schema = [Field(name=name, dtype=kind) for name, kind in fields.items()]
            store.apply([_ENTITY, FeatureView(name=VIEW, entities=[_ENTITY], schema=schema, source=source)])
        return found

    def renew(self) -> None:
        """Give the rows a new time: Feast skips those that are not newer than what is stored."""
        stamps = pa.repeat(pa.scalar(dt.datetime.now(dt.UTC), pa.timestamp("us", "UTC")), self.table.num_rows)
        pq.write_table(self.table.append_column("event_timestamp", stamps), self.file)

    def empty(self) -> None:
        """Empty the database of Feast's ways."""
        import redis

        address = self.store.config.online_store.connection_string.partition(",")[0]
        with redis.Redis.from_url(f"redis://{address}/{DATABASE}") as client:
            # Without SYNC the server frees memory later, in the middle of what is measured.
            client.execute_command("FLUSHDB", "SYNC")

    def fill(self) -> None:
        """Let the store hold all rows already, in older versions."""
        self.renew()
        self.materialize()
        self.renew()

    def materialize(self) -> None:
        """``feast materialize`` of all rows."""
        now = dt.datetime.now(dt.UTC)
        with _silence():
            self.store.materialize(now - dt.timedelta(days=1), now)


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
