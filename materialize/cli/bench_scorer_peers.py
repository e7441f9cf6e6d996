"""Other ways to score the same pairs, each in its best setting, for ``prescore bench scorer``."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.cli.bench_scorer_world import BenchWorld, Users

    Rate = Callable[[], float]
    """Measures once: pairs per second."""

_BLOCKS = (1, 2, 4, 8, 16)
"""Users per call of ``inplace_predict``, of which the best counts."""
_OPTIMIZED = "-O1"
"""Of TL2cgen's code, whose time goes into mispredicted branches: -O3 takes gcc twice as long, and makes it no faster."""


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def inplace_predict(world: BenchWorld, users: Users) -> dict[str, Rate]:
    """XGBoost on the explicit matrix of some users against all items: the call alone, and with building the matrix."""

    def alone(count: int) -> float:
        matrix, start = world.cross(users, count)
        return len(matrix) / seconds(
            lambda: world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start)
        )

    def with_matrix(count: int) -> float:
        def both() -> None:
            matrix, start = world.cross(users, count)
            world.booster.inplace_predict(matrix, predict_type="margin", base_margin=start)

        return count * world.items / seconds(both)

    return {"inplace_predict": _tuned(alone), "with_matrix": _tuned(with_matrix)}


def _tuned(rate: Callable[[int], float]) -> Rate:
    best = max(_BLOCKS, key=rate)
    return lambda: rate(best)


def other_libraries(world: BenchWorld, users: Users) -> tuple[dict[str, Rate], list[str]]:
    """TL2cgen on the same forest, LightGBM and lleaves on one of its size; and what was left out, with the reason."""
    found: dict[str, Rate] = {}
    left_out: list[str] = []
    matrix, _ = world.cross(users, 1)
    for peer in (_lightgbm, _tl2cgen):
        try:
            found |= peer(world, matrix, left_out)
        except ImportError as error:
            left_out.append(f"{error.name}: not installed")
    return found, left_out


def _lightgbm(world: BenchWorld, matrix: Any, left_out: list[str]) -> dict[str, Rate]:
    import lightgbm

    data, label, start = world.training
    settings = {
        "objective": "binary",
        "num_leaves": 2**world.shape.depth,
        "max_depth": world.shape.depth,
        "verbose": -1,
    }
    model = lightgbm.train(settings, lightgbm.Dataset(data, label, init_score=start), world.shape.trees)
    found: dict[str, Rate] = {
        "lightgbm": lambda: len(matrix) / seconds(lambda: model.predict(matrix, raw_score=True))
    }
    try:
        lleaves: Any = importlib.import_module("lleaves")
    except ImportError:
        left_out.append("lleaves: not installed, as it needs an older LLVM than Numba's")
        return found
    with tempfile.TemporaryDirectory(prefix="prescore-bench-") as folder:
        model.save_model(f"{folder}/model.txt")
        compiled = lleaves.Model(model_file=f"{folder}/model.txt")
        compiled.compile()
    return found | {
        "lleaves": lambda: len(matrix) / seconds(lambda: compiled.predict(matrix, raw_score=True))
    }


def _tl2cgen(world: BenchWorld, matrix: Any, left_out: list[str]) -> dict[str, Rate]:
    import tl2cgen
    import treelite

    if not shutil.which("gcc"):
        left_out.append("tl2cgen: no gcc")
        return {}
    with tempfile.TemporaryDirectory(prefix="prescore-bench-") as name:
        folder = Path(name)
        world.booster.save_model(folder / "model.json")
        model = treelite.frontend.load_xgboost_model(folder / "model.json", format_choice="inspect")
        library = folder / "forest.so"
        tl2cgen.export_lib(
            model, toolchain="gcc", libpath=library, params={"parallel_comp": 8}, options=[_OPTIMIZED]
        )
        predictor, batch = tl2cgen.Predictor(library), tl2cgen.DMatrix(matrix)
    return {"tl2cgen": lambda: len(matrix) / seconds(lambda: predictor.predict(batch, pred_margin=True))}
