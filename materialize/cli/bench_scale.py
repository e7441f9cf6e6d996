"""``prescore bench scale``: a million users against ten thousand items, scored tables written, and how time grows."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from materialize.cli.bench_scorer_world import Shape, World
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.scoring import BoundCatalogue

K = 100
CHUNK = 16_384
"""Users that are generated, scored and written together."""


def bench_scale(
    *, users: int = 1_000_000, items: int = 10_000, threads: int | None = None, folder: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Score at growing sizes: a quarter of the users with ever more items, then more users, in full at last.

    Args:
        users: At full size.
        items: At full size.
        threads: Default: all cores.
        folder: Where scored Parquet files go (and stay); default: a temporary folder.

    Yields:
        One row per size, the full one last: seconds (binding apart), the processor's seconds per thread (which other work
        on the machine does not lengthen), pairs and users per second, peak memory of this process in GiB so far,
        megabytes written.
    """
    sizes = [
        (users // 4, items // 4),
        (users // 4, items // 2),
        (users // 4, items),
        (users // 2, items),
        (users, items),
    ]
    bound: dict[int, tuple[World, BoundCatalogue, float]] = {}
    for some_users, some_items in sizes:
        if some_items not in bound:
            bound[some_items] = _bind(some_items)
        yield _run(some_users, *bound[some_items], threads, folder)


def _bind(items: int) -> tuple[World, BoundCatalogue, float]:
    from materialize.scoring import PairScorer

    world = World(Shape(100, 6), items)
    scorer = PairScorer.from_xgboost(world.booster, world.scopes)
    start = time.perf_counter()
    catalogue = scorer.bind(world.item_table)
    return world, catalogue, time.perf_counter() - start


def _run(
    users: int,
    world: World,
    catalogue: BoundCatalogue,
    bound: float,
    threads: int | None,
    folder: Path | None,
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from materialize.scoring.block_threads import default_threads

    place = folder or Path(tempfile.mkdtemp(prefix="prescore-bench-"))
    place.mkdir(parents=True, exist_ok=True)
    scoring = writing = busy = 0.0
    size = 0
    for first in range(0, users, CHUNK):
        some = world.users(min(CHUNK, users - first), seed=first + 10)
        begun, before = time.perf_counter(), time.process_time()
        top = catalogue.top_k(some.table, K, threads=threads)
        scored = time.perf_counter()
        file = place / f"block-{first // CHUNK:05d}.parquet"
        pq.write_table(
            top.to_table(), file, compression="zstd", use_dictionary=["user_id", "rank", "item_id"]
        )
        scoring += scored - begun
        writing += time.perf_counter() - scored
        busy += time.process_time() - before
        size += file.stat().st_size
    if folder is None:
        shutil.rmtree(place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "users": users,
        "items": world.items,
        "seconds": scoring + writing,
        "processor": busy / (threads or default_threads()),
        "scoring": scoring,
        "writing": writing,
        "bind": bound,
        "pairs/s": users * world.items / scoring,
        "users/s": users / (scoring + writing),
        "peak GiB": peak / 2 ** (30 if sys.platform == "darwin" else 20),
        "MB written": size / 1e6,
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Seconds against items and against users, with a straight line through the origin and the largest size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, what, other, some in zip(
        figure.subplots(1, 2), ("items", "users"), ("users", "items"), (rows[:3], rows[2:]), strict=True
    ):
        last = some[-1]
        axes.plot([0, last[what]], [0, last["seconds"]], color="0.7", linestyle="--", label="linear")
        axes.plot([row[what] for row in some], [row["seconds"] for row in some], "o", label="measured")
        busy = [row["processor"] for row in some]
        axes.plot([row[what] for row in some], busy, "x", label="processor time per thread")
        axes.set(xlabel=what, ylabel="seconds", title=f"{last[other]:,} {other}", xlim=0, ylim=0)
        axes.legend()
    figure.savefig(file)


def _command(
    users: Annotated[int, typer.Option(help="Users of the full size.")] = 1_000_000,
    items: Annotated[int, typer.Option(help="Items of the full size.")] = 10_000,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    output: OutputOption = Output.TEXT,
    file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here, and a plot of them beside it, as SVG.")
    ] = None,
) -> None:
    """Exact top-100 of every user at growing sizes, 100 trees of depth 6, scored tables written."""
    rows: list[dict[str, Any]] = []
    for row in bench_scale(users=users, items=items, threads=threads):
        stderr().print(f"{row['users']:,} users x {row['items']:,} items: {row['seconds']:.1f} s")
        rows.append(row)
    for row in rows:
        share = row["users"] * row["items"] / (rows[-1]["users"] * rows[-1]["items"])
        row["x linear"] = row["processor"] / rows[-1]["processor"] / share
    if file is not None:
        file.write_text(json.dumps(rows, indent=1), "utf-8")
        plot(rows, file.with_suffix(".svg"))
    emit(output, rows, "Exact top-100 of everybody", rows)


def register(app: typer.Typer) -> None:
    """Add ``scale`` to ``prescore bench``."""
    app.command("scale")(_command)
