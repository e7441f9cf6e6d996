"""Reads trees of other libraries from a file in a process of its own.

Treelite parses LightGBM's text and its own checkpoints in C++, where a damaged or hostile file can end the
process or ask for any amount of memory. The child has little to lose: a limit on memory, a time limit, and
the only thing that comes back are arrays, which are checked again when they are written as an XGBoost model.

Usage: ``python -m materialize.models.foreign_trees lightgbm|treelite FILE OUT.npz``
"""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import CallerError, UnsupportedModelError
from materialize.scoring.forest import Forest
from materialize.scoring.treelite_reader import read_treelite

MEMORY_BYTES = 16 << 30
"""Address space of the child; a library's own mappings count too."""

SECONDS = 600

_REFUSED = 3
_SETS = "category_sets"


def read_foreign(kind: str, file: Path) -> Forest:
    """The trees of a LightGBM text file or a Treelite checkpoint.

    Args:
        kind: ``lightgbm`` or ``treelite``.
        file: Where it is.

    Raises:
        UnsupportedModelError: If it is damaged, foreign, or cannot be scored exactly.
        CallerError: If Treelite is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="prescore-import-") as folder:
        out = Path(folder) / "forest.npz"
        command = [sys.executable, "-m", __name__, kind, str(file.absolute()), str(out)]
        try:
            done = subprocess.run(  # noqa: S603  # this module, and a file by its full path
                command, capture_output=True, text=True, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise UnsupportedModelError(
                f"{file} cannot be read", expected=f"to be read within {SECONDS} s"
            ) from error
        if done.returncode == _REFUSED:
            raise UnsupportedModelError(
                f"{file} cannot be read as a {kind} model", got=done.stdout.strip()[:400]
            )
        if done.returncode or not out.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            if "No module named 'treelite'" in last:
                raise CallerError("reading this model needs Treelite", fix="pip install 'prescore[trees]'")
            raise UnsupportedModelError(
                f"{file} is not a whole {kind} model",
                got=f"the reader ended with {done.returncode}: {last[:200]}",
            )
        return _load(out)


def _save(forest: Forest, out: Path) -> None:
    arrays: dict[str, Any] = {
        field.name: getattr(forest, field.name)
        for field in dataclasses.fields(forest)
        if field.name not in {_SETS, "names", "categorical"}
    }
    lengths = np.array([len(codes) for codes in forest.category_sets], np.int64)
    codes = np.concatenate([np.empty(0, np.int32), *forest.category_sets])
    categorical = np.array(sorted(forest.categorical), np.int64)
    np.savez(out, set_lengths=lengths, set_codes=codes, categorical=categorical, **arrays)


def _load(out: Path) -> Forest:
    with np.load(out, allow_pickle=False) as stored:
        arrays = dict(stored)
    ends = np.cumsum(arrays.pop("set_lengths"))[:-1]
    codes = arrays.pop("set_codes")
    sets = tuple(np.split(codes, ends)) if len(ends) or len(codes) else ()
    return Forest(
        **(
            arrays
            | {
                _SETS: sets,
                "names": (),
                "categorical": frozenset(arrays["categorical"].tolist()),
                "base_margin": np.float32(arrays["base_margin"]),
                "objective": str(arrays["objective"]),
                "features": int(arrays["features"]),
            }
        )
    )


def _main(kind: str, file: str, out: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import treelite  # noqa: PLC0415  # an extra, and only the child needs it

    try:
        if kind == "lightgbm":
            model = treelite.frontend.load_lightgbm_model(file)
        else:
            model = treelite.Model.deserialize(file)
        _save(read_treelite(model), Path(out))
    except (treelite.TreeliteError, UnsupportedModelError, MemoryError, ValueError) as error:
        sys.stdout.write(str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:4]))
