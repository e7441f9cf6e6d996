"""``prescore bench scorer``: the residual forest beside its peers, on the same pairs, in one run."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from materialize.cli.bench_scorer_world import SHAPES, SIDE, World
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from materialize.cli.bench_scorer_world import Shape

K = 100
_BLOCKS = (1, 2, 4, 8)
"""Users per call of a peer, of which the best counts; with 10,000 items each."""
_SECONDS = 1.0
"""How long one timing of ours should take at least."""


def bench_scorer(
    shapes: Sequence[Shape] = SHAPES,
    *,
    items: int = 10_000,
    rounds: int = 3,
    threads: int | None = None,
    peers: bool = True,
) -> Iterator[dict[str, Any]]:
    """Measure shape by shape.

    Args:
        shapes: Which models.
        items: Size of the catalogue.
        rounds: Ours and the peers' timings alternate so often; ratios are medians over the rounds.
        threads: For ours and for XGBoost; default: all cores.
        peers: Whether to measure TL2cgen and LightGBM as well; XGBoost always is.

    Yields:
        One row per shape; rates are pairs per second.
    """
    for shape in shapes:
        yield _measure(World(shape, items), rounds, threads, peers)


def _measure(world: World, rounds: int, threads: int | None, peers: bool) -> dict[str, Any]:
    booster = world.booster
    booster.set_param({"nthread": threads or 0})
    start = time.perf_counter()
    catalogue = world.bind()
    bind_seconds = time.perf_counter() - start
    users = world.users(64)
    error = _check(world, catalogue.score(users.table, threads=threads, **users.inputs), users)
    once = _time(lambda: catalogue.top_k(users.table, K, threads=threads, **users.inputs))
    count = int(np.clip(128 * np.ceil(_SECONDS / once / 2), 128, 8192))
    many = world.users(count)
    measured: dict[str, Callable[[], float]] = {
        "ours": lambda: (
            count
            * world.items
            / _time(lambda: catalogue.top_k(many.table, K, threads=threads, **many.inputs))
        ),
        "inplace_predict": _tuned(lambda n: _inplace(world, users, n)),
        "with_matrix": _tuned(lambda n: _with_matrix(world, users, n)),
    }
    if peers:
        measured |= _peers(world, users)
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, timing in measured.items():
            rates[name].append(timing())
    one = _one(world)

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))

    row: dict[str, Any] = {
        "shape": world.shape.name,
        "pairs/s": statistics.median(rates["ours"]),
        "x inplace_predict": ratio("inplace_predict"),
        "required": world.shape.required,
        "aim": world.shape.aim,
        "x with its matrix": ratio("with_matrix"),
        "inplace_predict": statistics.median(rates["inplace_predict"]),
    }
    for name in ("tl2cgen", "lightgbm"):
        row[f"x {name}"] = ratio(name) if name in rates else None
    return row | {
        "bind s": bind_seconds,
        "one user ms": statistics.median(_time(lambda: catalogue.top_k_one(k=K, **one)) for _ in range(50))
        * 1e3,
        "largest error": error,
    }


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _check(world: World, scores: Any, users: Any) -> float:
    """Largest difference to XGBoost's margins on a few users: a benchmark of wrong answers is worth nothing."""
    matrix, start = world.cross(users, 4)
    expected = world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start)
    return float(np.abs(scores[:4].reshape(-1) - expected).max())


def _tuned(rate: Callable[[int], float]) -> Callable[[], float]:
    best = max(_BLOCKS, key=rate)
    return lambda: rate(best)


def _inplace(world: World, users: Any, count: int) -> float:
    matrix, start = world.cross(users, count)
    seconds = _time(lambda: world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start))
    return count * world.items / seconds


def _with_matrix(world: World, users: Any, count: int) -> float:
    def both() -> None:
        matrix, start = world.cross(users, count)
        world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start)

    return count * world.items / _time(both)


def _one(world: World) -> dict[str, Any]:
    """Arguments of ``top_k_one`` for a user without affinities and pairs."""
    users = world.users(1, seed=3)
    latent = users.inputs.get("latent")
    return {
        "user_features": {f"u{n}": float(users.features[0, n]) for n in range(SIDE)},
        "latent": None if latent is None else latent[0],
    }


def _peers(world: World, users: Any) -> dict[str, Callable[[], float]]:
    """Other ways to score a matrix; those that are not installed, or lack a compiler, are left out."""
    found: dict[str, Callable[[], float]] = {}
    matrix, _ = world.cross(users, 1)
    try:
        import lightgbm

        data, label, start = world.training
        settings = {
            "objective": "binary",
            "num_leaves": 2**world.shape.depth,
            "max_depth": world.shape.depth,
            "verbose": -1,
        }
        other = lightgbm.train(settings, lightgbm.Dataset(data, label, init_score=start), world.shape.trees)
        found["lightgbm"] = lambda: len(matrix) / _time(lambda: other.predict(matrix, raw_score=True))
    except ImportError:
        stderr().print("LightGBM is not installed: left out")
    try:
        import tl2cgen
        import treelite

        if not (shutil.which("gcc") and world.shape.trees * 2**world.shape.depth <= 20_000):
            stderr().print("TL2cgen is left out: no gcc, or a forest that compiles for minutes")
            return found
        folder = Path(tempfile.mkdtemp(prefix="prescore-bench-"))
        world.booster.save_model(folder / "model.json")
        model = treelite.frontend.load_xgboost_model(folder / "model.json", format_choice="inspect")
        tl2cgen.export_lib(model, toolchain="gcc", libpath=folder / "forest.so", params={"parallel_comp": 8})
        predictor, batch = tl2cgen.Predictor(folder / "forest.so"), tl2cgen.DMatrix(matrix)
        shutil.rmtree(folder)
        found["tl2cgen"] = lambda: len(matrix) / _time(lambda: predictor.predict(batch, pred_margin=True))
    except ImportError:
        stderr().print("TL2cgen is not installed: left out")
    return found


def _command(
    only: Annotated[
        list[str] | None, typer.Option("--shape", help="Such as '100x6'; may be repeated.")
    ] = None,
    items: Annotated[int, typer.Option(help="Size of the catalogue.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Interleaved timings of each.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    peers: Annotated[bool, typer.Option(help="Measure TL2cgen and LightGBM too.")] = True,
    output: OutputOption = Output.TEXT,
    file: Annotated[Path | None, typer.Option("--json", help="Write the rows here as well.")] = None,
) -> None:
    """Score every pair of generated users and 10,000 items, beside XGBoost, TL2cgen and LightGBM."""
    chosen = [shape for shape in SHAPES if not only or shape.name in only]
    rows = []
    for row in bench_scorer(chosen, items=items, rounds=rounds, threads=threads, peers=peers):
        stderr().print(f"{row['shape']}: {row['x inplace_predict']:.0f} x inplace_predict")
        rows.append(row)
    if file is not None:
        file.write_text(json.dumps(rows, indent=1), "utf-8")
    emit(
        output,
        rows,
        "Top-100 of every user, pairs per second and ratios (median of interleaved rounds)",
        rows,
    )


def register(app: typer.Typer) -> None:
    """Add ``scorer`` to ``prescore bench``."""
    app.command("scorer")(_command)
