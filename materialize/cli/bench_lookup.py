"""``prescore bench lookup``: the look-up service beside ``feast serve`` and the store's own limit, on the same rows."""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from materialize.cli.bench_lookup_load import LoadResult, Protocol
    from materialize.cli.bench_lookup_world import BenchWorld

DRAWN = 20_000
"""Different requests that a run cycles through."""


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: Row of the table.
        protocol, port: Where it answers.
        requests: Ready bytes.
        users: Users that one request asks for.
        connections: How many at once.
    """

    name: str
    protocol: Protocol
    port: int
    requests: Sequence[bytes]
    users: int = 1
    connections: int = 32


def bench_lookup(
    *,
    users: int = 100_000,
    items: int = 10_000,
    trees: int = 100,
    seconds: float = 3.0,
    rounds: int = 3,
    workers: int = 1,
    feast: bool = True,
    told: Callable[[str], None] = lambda _: None,
) -> list[dict[str, object]]:
    """Measure store and service in turn, round after round, then ``feast serve``; medians of each.

    Args:
        users: Users with a list of 50; as many more have features only and are scored on demand.
        items: Items of the catalogue.
        trees: Trees of depth 6 of the model.
        seconds: Of each measurement.
        rounds: Measurements of each subject.
        workers: Worker processes of the service.
        feast: Whether to measure ``feast serve`` too.
        told: Hears what is being done.

    Returns:
        One row per subject: rates per second, latencies in milliseconds, and the ratios to peers in the same run.
    """
    from materialize.cli.bench_lookup_load import measure
    from materialize.cli.bench_lookup_world import feast_server, lookup_service, publish, store

    with tempfile.TemporaryDirectory(prefix="prescore-bench-") as folder, store() as store_port:
        told(f"publishing {users:,} lists and {2 * users:,} users' features")
        world = publish(Path(folder), store_port, users, items, trees)
        with lookup_service(world, workers) as service:
            subjects = [*_store_subjects(world), *_service_subjects(world, service.port)]
            results: dict[str, list[LoadResult]] = {}

            def run(subject: Subject) -> None:
                told(subject.name)
                result = measure(
                    subject.protocol,
                    subject.port,
                    subject.requests,
                    seconds=seconds,
                    connections=subject.connections,
                )
                results.setdefault(subject.name, []).append(result)

            for _ in range(rounds):
                for subject in subjects:
                    run(subject)
            if feast:
                told("starting feast serve")
                with feast_server(world) as peer:
                    subject = _feast_subject(world, peer.port)
                    for _ in range(rounds):
                        run(subject)
                    subjects.append(subject)
    return _rows(subjects, results)


def _rows(subjects: Sequence[Subject], results: dict[str, list[LoadResult]]) -> list[dict[str, object]]:
    def median(name: str) -> float:
        return statistics.median(result.rate for result in results[name])

    get, feast = median("raw GET"), median("feast serve") if "feast serve" in results else None
    rows: list[dict[str, object]] = []
    for subject in subjects:
        found, rate = results[subject.name], median(subject.name)
        middle = {p: statistics.median(r.percentiles_ms[p] for r in found) for p in (50.0, 99.0, 99.9)}
        rows.append(
            {
                "what": subject.name,
                "requests/s": round(rate),
                "users/s": round(rate * subject.users),
                "p50 ms": round(middle[50.0], 3),
                "p99 ms": round(middle[99.0], 3),
                "p99.9 ms": round(middle[99.9], 3),
                "failures": sum(r.failures for r in found),
                "× raw GET": round(rate * subject.users / get, 3),
                "× feast serve": round(rate * subject.users / feast, 1) if feast else None,
            }
        )
    return rows


def _drawn_users(world: BenchWorld, first: int) -> Iterator[int]:
    import numpy as np

    return iter((first + np.random.default_rng(1).integers(0, world.users, DRAWN)).tolist())


def _store_subjects(world: BenchWorld) -> Iterator[Subject]:
    """The limit: what the store answers to a client that does nothing else, one command at a time per connection."""
    import redis

    from materialize.cli.bench_lookup_world import MODEL, PROJECT, SLOT
    from materialize.publish.feast_format import entity_key, field_hash
    from materialize.publish.redis_loader import SLOT_FEATURES
    from serving_lookup.store import pack

    with redis.Redis(port=world.store_port) as client:
        for n in range(100):
            client.set(f"raw:{n}", b"x" * 400)
    fields = [field_hash(f"{MODEL}_{SLOT}", name) for name in SLOT_FEATURES]
    yield Subject(
        "raw GET", "resp", world.store_port, [pack(b"GET", f"raw:{n}".encode()) for n in range(100)]
    )
    rows = [pack(b"HMGET", entity_key(u, PROJECT), *fields) for u in _drawn_users(world, 0)]
    yield Subject("raw HMGET of a list", "resp", world.store_port, rows)


def _service_subjects(world: BenchWorld, port: int) -> Iterator[Subject]:
    from materialize.cli.bench_lookup_world import MODEL

    path = f"/v1/models/{MODEL}"
    host = b"host: 127.0.0.1\r\n"

    def get(user: int, extra: bytes = b"") -> bytes:
        return f"GET {path}/users/{user}/recommendations?k=20 HTTP/1.1\r\n".encode() + host + extra + b"\r\n"

    yield Subject("hits, JSON, k = 20", "http", port, [get(u) for u in _drawn_users(world, 0)])
    packed = b"accept: application/vnd.msgpack\r\n"
    yield Subject("hits, MessagePack, k = 20", "http", port, [get(u, packed) for u in _drawn_users(world, 0)])
    yield Subject(
        "misses, scored on demand", "http", port, [get(u) for u in _drawn_users(world, world.users)]
    )
    drawn = list(_drawn_users(world, 0))
    bodies = [json.dumps({"users": drawn[i : i + 100], "k": 20}) for i in range(0, DRAWN, 100)]
    batch = [_post(f"{path}/recommendations:batch", body) for body in bodies]
    yield Subject("batch of 100 hits", "http", port, batch, users=100, connections=4)


def _post(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def _feast_subject(world: BenchWorld, port: int) -> Subject:
    from materialize.cli.bench_lookup_world import MODEL, SLOT
    from materialize.publish.redis_loader import SLOT_FEATURES

    features = [f"{MODEL}_{SLOT}:{name}" for name in SLOT_FEATURES]
    bodies = [
        json.dumps({"features": features, "entities": {"user_id": [u]}}) for u in _drawn_users(world, 0)
    ]
    return Subject("feast serve", "http", port, [_post("/get-online-features", b) for b in bodies])


def command(
    users: Annotated[int, typer.Option(min=100, help="Users with precomputed lists.")] = 100_000,
    items: Annotated[int, typer.Option(min=100, help="Items of the catalogue.")] = 10_000,
    trees: Annotated[int, typer.Option(min=1, help="Trees of depth 6.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.2, help="Of each measurement.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median is shown.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the service.")] = 1,
    feast: Annotated[bool, typer.Option(help="Measure 'feast serve' too.")] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """Look-ups per second and their latency, beside feast serve and the store's own limit."""
    rows = bench_lookup(
        users=users,
        items=items,
        trees=trees,
        seconds=seconds,
        rounds=rounds,
        workers=workers,
        feast=feast,
        told=lambda text: stderr().print(text, style="dim"),
    )
    emit(output, rows, "Look-ups: medians, 32 connections, load generator on the same machine", rows)


def register(app: typer.Typer) -> None:
    """Add the command to ``prescore bench``."""
    app.command("lookup")(command)
