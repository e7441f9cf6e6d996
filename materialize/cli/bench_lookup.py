"""``prescore bench lookup``: the look-up service beside ``feast serve`` and the store's own limit, on the same rows."""

from __future__ import annotations

import json
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from materialize.cli.bench_lookup_load import Load, LoadResult
    from materialize.cli.bench_lookup_world import BenchWorld, Server

DRAWN = 20_000
"""Different requests that a run cycles through."""

SHARES = (0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
"""Loads of the latency plot, as shares of the closed loop's rate."""

MISSES_IN_MIX = 0.05
GET, HITS, FEAST = "GET, same generator", "hits, JSON, k = 20", "feast serve"
_TOOLS = ("valkey-benchmark", "redis-benchmark")


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: Row of the table.
        load: What is sent.
        users: Users that one request asks for.
    """

    name: str
    load: Load
    users: int = 1


@dataclass(frozen=True)
class LookupBench:
    """What was measured.

    Attributes:
        rows: One per subject: rates per second, latencies in milliseconds, ratios to peers in the same run.
        latency: One per load of an open loop of hits: share, rate offered and answered, shed, percentiles.
        overload: What :func:`materialize.cli.bench_lookup_overload.overload` gives, if it was asked for.
        start: Seconds until a service with compiled kernels is ready, and the memory of a worker then.
    """

    rows: list[dict[str, object]]
    latency: list[dict[str, float]]
    overload: list[dict[str, float]]
    start: list[dict[str, float]]


def bench_lookup(
    *,
    users: int = 100_000,
    items: int = 10_000,
    trees: int = 100,
    seconds: float = 3.0,
    rounds: int = 3,
    workers: int = 1,
    feast: bool = True,
    overload_seconds: float = 0,
    told: Callable[[str], None] = lambda _: None,
) -> LookupBench:
    """Measure store, service and ``feast serve`` in turn, round after round; then the service at a rising load.

    Args:
        users: Users with a list of 50; as many more have features only and are scored on demand.
        items: Items of the catalogue.
        trees: Trees of depth 6 of the model.
        seconds: Of each measurement.
        rounds: Measurements of each subject; medians count.
        workers: Worker processes of the service.
        feast: Whether to measure ``feast serve`` too.
        overload_seconds: How long to send twice what can be answered, in the end; 0: not.
        told: Hears what is being done.
    """
    from contextlib import ExitStack

    from materialize.cli.bench_lookup_load import measure
    from materialize.cli.bench_lookup_overload import overload
    from materialize.cli.bench_lookup_world import feast_server, lookup_service, publish, store

    if overload_seconds:  # its connections are files of the service and of the generator, which inherit this
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prescore-bench-")))
        store_port = stack.enter_context(store())
        told(f"publishing {users:,} lists and {2 * users:,} users' features")
        world = publish(folder, store_port, users, items, trees)
        with lookup_service(world, workers):  # the first start may have to compile kernels
            pass
        service = stack.enter_context(lookup_service(world, workers))
        start = _start(service, folder / "lookup")
        subjects = [*_store_subjects(world), *_service_subjects(world, service.port, workers)]
        if feast:
            told("starting feast serve")
            peer = stack.enter_context(feast_server(world))
            subjects.append(_feast_subject(world, peer.port))
        results: dict[str, list[LoadResult]] = {}
        limits: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, rate in _limits(world, seconds):
                limits.setdefault(name, []).append(rate)
            for subject in subjects:
                told(subject.name)
                results.setdefault(subject.name, []).append(measure(subject.load, seconds=seconds))
        capacity = statistics.median(result.rate for result in results[HITS])
        hits = next(subject.load for subject in subjects if subject.name == HITS)
        latency = []
        for share in SHARES:
            told(f"hits at {share:.0%} of {capacity:,.0f}/s")
            result = measure(replace(hits, rate=share * capacity, connections=64), seconds=seconds)
            found = {f"p{p:g} ms": round(ms, 3) for p, ms in result.percentiles_ms.items()}
            latency.append(
                {
                    "share": share,
                    "offered/s": round(share * capacity),
                    "answered/s": round(result.rate),
                    "shed/s": round(result.shed / result.seconds),
                    **found,
                }
            )
        overloads = []
        if overload_seconds:
            told("hits at twice the capacity")
            overloads = [overload(service, hits, capacity, overload_seconds)]
    return LookupBench(_rows(subjects, results, limits), latency, overloads, [start])


def _start(service: Server, artifact: Path) -> dict[str, float]:
    """How long it took, and what each worker takes."""
    files = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    memory = max(worker.memory_info().rss for worker in service.workers)
    return {
        "ready after s": round(service.ready_seconds, 2),
        "MiB a worker": round(memory / 2**20),
        "MiB of the artifact in it": round(files / 2**20, 1),
    }


def _limits(world: BenchWorld, seconds: float) -> Iterator[tuple[str, float]]:
    """The store's rate as its own tool sees it, without pipelining, where that tool is installed."""
    from materialize.cli.bench_lookup_world import MODEL, PROJECT, SLOT
    from materialize.publish.feast_format import entity_key, field_hash
    from materialize.publish.redis_loader import SLOT_FEATURES

    tool = next((found for name in _TOOLS if (found := shutil.which(name))), None)
    if tool is None:
        return
    key = entity_key(0, PROJECT)
    fields = [field_hash(f"{MODEL}_{SLOT}", name) for name in SLOT_FEATURES]
    # Arguments cannot hold a zero byte, so the row is copied under a plain name, with plain fields.
    import redis

    with redis.Redis(port=world.store_port) as client:
        row = client.hmget(key, fields)
        client.hset("raw:row", mapping={str(i): value for i, value in enumerate(row) if value is not None})
    asked = str(max(int(50_000 * seconds), 1000))
    for name, command in (("GET", ("get", "raw:0")), ("HMGET", ("hmget", "raw:row", "0", "1", "2"))):
        done = subprocess.run(  # noqa: S603 - a tool of the store's own
            [tool, "-p", str(world.store_port), "-c", "32", "-n", asked, "-q", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        if rates := re.findall(r"([0-9.]+) requests per second", done.stdout):
            yield f"{name}, {Path(tool).name}", float(rates[-1])


def _rows(
    subjects: Sequence[Subject], results: dict[str, list[LoadResult]], limits: dict[str, list[float]]
) -> list[dict[str, object]]:
    def median(name: str) -> float:
        return statistics.median(result.rate for result in results[name])

    # The stricter of the two: a client in C sees more of the store than one in Python.
    get = max(
        [median(GET), *(statistics.median(rates) for name, rates in limits.items() if name[:4] == "GET,")]
    )
    feast = median(FEAST) if FEAST in results else None
    rows: list[dict[str, object]] = []
    for name, rates in limits.items():
        rate = statistics.median(rates)
        rows.append(_row(name, rate, 1, get, feast))
    for subject in subjects:
        found = results[subject.name]
        middle = {p: statistics.median(r.percentiles_ms[p] for r in found) for p in (50.0, 99.0, 99.9)}
        row = _row(subject.name, median(subject.name), subject.users, get, feast)
        row |= {f"p{p:g} ms": round(ms, 3) for p, ms in middle.items()}
        rows.append(row | {"failures": sum(r.failures + r.shed for r in found)})
    return rows


def _row(name: str, rate: float, users: int, get: float, feast: float | None) -> dict[str, object]:
    return {
        "what": name,
        "requests/s": round(rate),
        "users/s": round(rate * users),
        "× GET": round(rate * users / get, 3),
        "× feast serve": round(rate * users / feast, 1) if feast else None,
        "p50 ms": None,
        "p99 ms": None,
        "p99.9 ms": None,
        "failures": None,
    }


def _drawn_users(world: BenchWorld, first: int) -> Iterator[int]:
    import numpy as np

    return iter((first + np.random.default_rng(1).integers(0, world.users, DRAWN)).tolist())


def _store_subjects(world: BenchWorld) -> Iterator[Subject]:
    """What the store answers to our generator, one command at a time per connection."""
    import redis

    from materialize.cli.bench_lookup_load import Load
    from materialize.cli.bench_lookup_world import MODEL, PROJECT, SLOT
    from materialize.publish.feast_format import entity_key, field_hash
    from materialize.publish.redis_loader import SLOT_FEATURES
    from serving_lookup.store import pack

    with redis.Redis(port=world.store_port) as client:
        for n in range(100):
            client.set(f"raw:{n}", b"x" * 400)
    fields = [field_hash(f"{MODEL}_{SLOT}", name) for name in SLOT_FEATURES]
    gets = [pack(b"GET", f"raw:{n}".encode()) for n in range(100)]
    yield Subject(GET, Load("resp", world.store_port, gets))
    rows = [pack(b"HMGET", entity_key(u, PROJECT), *fields) for u in _drawn_users(world, 0)]
    yield Subject("HMGET of a list, same generator", Load("resp", world.store_port, rows))


def _service_subjects(world: BenchWorld, port: int, workers: int) -> Iterator[Subject]:
    from materialize.cli.bench_lookup_load import Load, interleave
    from materialize.cli.bench_lookup_world import MODEL

    path = f"/v1/models/{MODEL}"

    def get(user: int, extra: str = "") -> bytes:
        return f"GET {path}/users/{user}/recommendations?k=20 HTTP/1.1\r\nhost: 127.0.0.1\r\n{extra}\r\n".encode()

    known, others = list(_drawn_users(world, 0)), list(_drawn_users(world, world.users))
    hits, misses = [get(u) for u in known], [get(u) for u in others]
    yield Subject(HITS, Load("http", port, hits))
    packed = [get(u, "accept: application/vnd.msgpack\r\n") for u in known]
    yield Subject("hits, MessagePack, k = 20", Load("http", port, packed))
    # Two users at a time per worker are scored at once; more connections would only wait for one another.
    yield Subject("misses, scored on demand", Load("http", port, misses, connections=2 * workers))
    mixed, timed = zip(*interleave(hits, misses, MISSES_IN_MIX), strict=True)
    yield Subject(f"{1 - MISSES_IN_MIX:.0%} hits, latency of those", Load("http", port, mixed, timed=timed))
    bodies = [json.dumps({"users": known[i : i + 100], "k": 20}) for i in range(0, DRAWN, 100)]
    batch = [_post(f"{path}/recommendations:batch", body) for body in bodies]
    yield Subject("batch of 100 hits", Load("http", port, batch), users=100)


def _post(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def _feast_subject(world: BenchWorld, port: int) -> Subject:
    from materialize.cli.bench_lookup_load import Load
    from materialize.cli.bench_lookup_world import MODEL, SLOT
    from materialize.publish.redis_loader import SLOT_FEATURES

    features = [f"{MODEL}_{SLOT}:{name}" for name in SLOT_FEATURES]
    bodies = [
        json.dumps({"features": features, "entities": {"user_id": [u]}}) for u in _drawn_users(world, 0)
    ]
    return Subject(FEAST, Load("http", port, [_post("/get-online-features", b) for b in bodies]))


def plot(latency: Sequence[dict[str, float]], file: Path) -> None:
    """Percentiles of hits against load, as SVG or by the file's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    load = [row["offered/s"] / 1000 for row in latency]
    for name in ("p50 ms", "p90 ms", "p99 ms", "p99.9 ms"):
        axes.plot(load, [row[name] for row in latency], marker="o", label=name.removesuffix(" ms"))
    whole = next(row["offered/s"] for row in latency if row["share"] == 1)
    axes.axvline(whole / 1000, color="0.6", linestyle="--", linewidth=1)
    axes.annotate(
        "rate of 32 connections\nin a closed loop",
        (whole / 1000, 0),
        xytext=(-5, 6),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="0.35",
    )
    axes.set(xlabel="hits asked for, thousands per second", ylabel="milliseconds since the request was due")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(title="percentile")
    figure.savefig(file)


def command(
    users: Annotated[int, typer.Option(min=100, help="Users with precomputed lists.")] = 100_000,
    items: Annotated[int, typer.Option(min=100, help="Items of the catalogue.")] = 10_000,
    trees: Annotated[int, typer.Option(min=1, help="Trees of depth 6.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.2, help="Of each measurement.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median is shown.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the service.")] = 1,
    feast: Annotated[bool, typer.Option(help="Measure 'feast serve' too.")] = True,
    overload: Annotated[
        float, typer.Option(min=0, help="Seconds of twice the capacity in the end; 0: not.")
    ] = 10.0,
    file: Annotated[
        Path | None,
        typer.Option("--json", help="Write everything here, and a plot of latency beside it, as SVG."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Look-ups per second and their latency, beside feast serve and the store's own limit."""
    found = bench_lookup(
        users=users,
        items=items,
        trees=trees,
        seconds=seconds,
        rounds=rounds,
        workers=workers,
        feast=feast,
        overload_seconds=overload,
        told=lambda text: stderr().print(text, style="dim"),
    )
    document = {
        "rows": found.rows,
        "latency": found.latency,
        "overload": found.overload,
        "start": found.start,
    }
    if file is not None:
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        plot(found.latency, file.with_suffix(".svg"))
    title = "Look-ups: medians, 32 connections, load generator on the same machine"
    if output is Output.TEXT:
        emit(output, found.rows, title, found.rows)
        emit(output, found.latency, "Hits at a rate, 64 connections, latency since due", found.latency)
        emit(output, found.overload, "Twice the capacity", found.overload)
        emit(output, found.start, "A start with compiled kernels", found.start)
    else:
        emit(output, document, title, found.rows)


def register(app: typer.Typer) -> None:
    """Add the command to ``prescore bench``."""
    app.command("lookup")(command)
