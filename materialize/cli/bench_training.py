"""``prescore bench training``: the same boosting on rows in memory and on rows in files, how long and in how much memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit
from materialize.cli.watched_child import watched_child

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROWS_PER_PART = 250_000
LIST = 50


def bench_training(
    *, rows: int, features: int, rounds: int, workers: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Boost twice: rows in memory, and rows in files.

    Args:
        rows: Rows of random numbers, a tenth of them missing.
        features: Columns.
        rounds: Trees.
        workers: Local worker processes.
        folder: Where the files go.

    Yields:
        Two rows: where the matrix is; its GiB; seconds with the start of the cluster and the making of the rows; most
        memory of this process and the workers at once, in GiB; SHA-256 of the model's first bytes, equal in both.
    """
    for place in ("memory", "disk"):
        took, peak, files = watched_child(
            _boost, place, rows, features, rounds, workers, folder, files=lambda: folder.rglob("*")
        )
        matrix = rows * features * 4 / 2**30
        yield {
            "rows in": place,
            "matrix GiB": round(matrix, 2),
            **took,
            "peak GiB": round(peak / 2**30, 2),
            "files GiB": round(files / 2**30, 2),
        }


def _boost(place: str, rows: int, features: int, rounds: int, workers: int, folder: Path) -> dict[str, Any]:
    import dask

    from features.schema import USER, FeatureColumn, FeatureSchema
    from materialize.cluster import open_cluster
    from materialize.settings import ClusterSettings
    from materialize.training.boosting import boost, model_bytes
    from materialize.training.read_rows import in_memory
    from materialize.training.stored_values import StoredValues
    from materialize.training.training_rows import TrainingRows
    from materialize.training_settings import TrainingSettings

    started = time.monotonic()
    labels = np.random.default_rng(1).random(rows, np.float32) < 0.1
    parts = _parts(rows, features, labels)
    values = (
        StoredValues.write(folder / "rows", features, parts)
        if place == "disk"
        else in_memory(parts, rows, features)
    )
    whole = TrainingRows(
        values, labels.astype(np.float32), np.ones(rows, np.float32), np.arange(rows) // LIST
    )
    schema = FeatureSchema(tuple(FeatureColumn(f"f{n}", USER) for n in range(features)))
    settings = ClusterSettings(kind="local", workers=workers, memory_per_worker="16GB")
    with (
        dask.config.set(temporary_directory=str(folder / "workers")),
        open_cluster(settings) as client,
    ):
        boosted = boost(client, whole, schema, TrainingSettings(), rounds=rounds)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "model": hashlib.sha256(model_bytes(boosted.booster)).hexdigest()[:12],
    }


def _parts(rows: int, features: int, labels: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    for start in range(0, rows, ROWS_PER_PART):
        part = rng.random((min(ROWS_PER_PART, rows - start), features), np.float32)
        part[:, 0] += labels[start : start + ROWS_PER_PART]  # something to learn
        part[part < 0.1] = np.nan
        yield part


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("training")
    def training(
        rows: Annotated[int, typer.Option(help="Rows to train on.", min=1000)] = 5_000_000,
        features: Annotated[int, typer.Option(help="Features.", min=2)] = 60,
        rounds: Annotated[int, typer.Option(help="Trees.", min=1)] = 20,
        workers: Annotated[int, typer.Option(help="Worker processes.", min=1)] = 2,
        json_file: Annotated[
            Path | None, typer.Option("--json", help="Also write the result to this file.")
        ] = None,
        output: OutputOption = Output.TEXT,
    ) -> None:
        """The same boosting on rows in memory and on rows in files: seconds, peak memory, whether the models are equal."""
        with tempfile.TemporaryDirectory(prefix="prescore-bench-") as folder:
            found = list(
                bench_training(
                    rows=rows, features=features, rounds=rounds, workers=workers, folder=Path(folder)
                )
            )
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=2), encoding="utf-8")
        emit(output, found, "Boosting in memory and from files", found)
