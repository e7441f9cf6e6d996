"""``prescore bench scorer``: the residual forest beside its peers, on the same pairs, in one run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from features.errors import CallerError
from materialize.cli import bench_scorer_journey as journey
from materialize.cli.bench_scorer_delta import bench_delta
from materialize.cli.bench_scorer_peers import inplace_predict, other_libraries, seconds
from materialize.cli.bench_scorer_workers import bench_workers
from materialize.cli.bench_scorer_world import SHAPES, World
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.cli.bench_scorer_world import BenchWorld

K = 100
DELTA, WORKERS = "delta", "workers"
_SECONDS = 1.0
"""How long one timing of ours should take at least."""
_TABLES = {
    "Top-100 of every user, against XGBoost's inplace_predict without the cost of its matrix": (
        "shape", "pairs/s", "x inplace_predict", "required", "aim",
    ),
    "Peers on the same pairs, in the same run: their rate, and how many times ours is theirs": (
        "shape", "inplace_predict", "x with its matrix", "x tl2cgen", "x lightgbm", "x lleaves",
    ),
    "Binding the items, one user, and the largest difference to XGBoost's margins": (
        "shape", "bind s", "one user ms", "largest error",
    ),
}  # fmt: skip
_TITLES = {
    DELTA: "A delta run, 2 % of users and 0.5 % of items changed, beside a full one; one thread",
    WORKERS: "Blocks on Dask: two workers of one thread beside one of two",
}


def measure(
    world: BenchWorld, *, rounds: int = 3, threads: int | None = None, peers: bool = True
) -> dict[str, Any]:
    """Measure one model.

    Args:
        world: The model, its items and users.
        rounds: Ours and the peers' timings alternate so often; ratios are medians over the rounds.
        threads: For ours and for XGBoost; default: all cores.
        peers: Whether to measure TL2cgen, LightGBM and lleaves as well; XGBoost always is.

    Returns:
        Rates in pairs per second, ratios to them, seconds to bind, milliseconds for one user, the largest error, and
        what was left out, with the reason.
    """
    booster = world.booster
    booster.set_param({"nthread": threads or 0})
    catalogue = world.bind()  # compiles, or loads what was compiled
    bind_seconds = seconds(world.bind)
    users = world.users(64)
    error = _check(world, catalogue.score(users.table, threads=threads, **users.inputs), users)
    once = seconds(lambda: catalogue.top_k(users.table, K, threads=threads, **users.inputs))
    many = world.users(int(np.clip(128 * np.ceil(_SECONDS / once / 2), 128, 8192)))
    measured: dict[str, Callable[[], float]] = {
        "ours": lambda: (
            many.table.num_rows
            * world.items
            / seconds(lambda: catalogue.top_k(many.table, K, threads=threads, **many.inputs))
        ),
        **inplace_predict(world, users),
    }
    left_out: list[str] = []
    if peers:
        others, left_out = other_libraries(world, users)
        measured |= others
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, timing in measured.items():
            rates[name].append(timing())
    one = world.one()

    def ratio(name: str) -> float | None:
        if name not in rates:
            return None
        return statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))

    return {
        "shape": world.shape.name,
        "pairs/s": statistics.median(rates["ours"]),
        "inplace_predict": statistics.median(rates["inplace_predict"]),
        "x inplace_predict": ratio("inplace_predict"),
        "required": world.shape.required,
        "aim": world.shape.aim,
        "x with its matrix": ratio("with_matrix"),
        **{f"x {name}": ratio(name) for name in ("tl2cgen", "lightgbm", "lleaves")},
        "bind s": bind_seconds,
        "one user ms": statistics.median(seconds(lambda: catalogue.top_k_one(k=K, **one)) for _ in range(100))
        * 1e3,
        "largest error": error,
        "left out": "; ".join(left_out) or None,
    }


def _check(world: BenchWorld, scores: Any, users: Any) -> float:
    """Largest difference to XGBoost's margins on a few users: a benchmark of wrong answers is worth nothing."""
    matrix, start = world.cross(users, 4)
    expected = world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start)
    return float(np.abs(scores[:4].reshape(-1) - expected).max())


def _command(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help=f"Such as '100x6', '{journey.NAME}', '{DELTA}' or '{WORKERS}'; may be repeated."
        ),
    ] = None,
    items: Annotated[int, typer.Option(help="Size of the generated catalogues.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved timings of each.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    peers: Annotated[bool, typer.Option(help="Measure TL2cgen, LightGBM and lleaves too.")] = True,
    folder: Annotated[
        Path, typer.Option(help="Of the demo, whose model is measured; it is trained if need be.")
    ] = Path(".prescore/demo"),
    output: OutputOption = Output.TEXT,
    file: Annotated[Path | None, typer.Option("--json", help="Write the results here as well.")] = None,
) -> None:
    """Score every pair of many users and 10,000 items, beside XGBoost, TL2cgen and LightGBM; then deltas and workers."""
    worlds: dict[str, Callable[[], BenchWorld]] = {
        shape.name: lambda shape=shape: World(shape, items)  # type: ignore[misc]
        for shape in SHAPES
    }
    worlds[journey.NAME] = lambda: journey.JourneyWorld.prepare(folder)
    known = [*worlds, DELTA, WORKERS]
    chosen = only or known
    if unknown := sorted(set(chosen) - set(known)):
        raise CallerError(f"nothing to measure is called {', '.join(unknown)}", expected=", ".join(known))
    document: dict[str, list[dict[str, Any]]] = {}
    for name in chosen:
        if name in worlds:
            row = measure(worlds[name](), rounds=rounds, threads=threads, peers=peers)
            stderr().print(f"{name}: {row['x inplace_predict']:.0f} x inplace_predict")
            document.setdefault("shapes", []).append(row)
    if DELTA in chosen:
        document[DELTA] = [bench_delta(items=items, users=min(32_768, 16 * items), rounds=rounds)]
    if WORKERS in chosen:
        document[WORKERS] = [bench_workers(items=items, blocks=max(2, items // 625), rounds=rounds)]
    if file is not None:
        file.write_text(json.dumps(document, indent=1), "utf-8")
    if output is Output.JSON:
        print_json(document)
        return
    _print(document)


def _print(document: dict[str, list[dict[str, Any]]]) -> None:
    """Draw what was measured as tables that fit a terminal."""
    for part, rows in document.items():
        if part in _TITLES:
            print_table(_TITLES[part], rows)
            continue
        for title, names in _TABLES.items():
            print_table(title, [{name: row[name] for name in names} for row in rows])
        left_out = [{"shape": row["shape"], "left out": row["left out"]} for row in rows if row["left out"]]
        if left_out:
            print_table("Left out", left_out)


def register(app: typer.Typer) -> None:
    """Add ``scorer`` to ``prescore bench``."""
    app.command("scorer")(_command)
