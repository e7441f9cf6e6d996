"""The benchmark of training runs from end to end on few rows, and both ways give one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from materialize.cli.bench_training import bench_training

if TYPE_CHECKING:
    from pathlib import Path


def test_a_small_matrix_in_memory_and_on_disk(tmp_path: Path) -> None:
    memory, disk = bench_training(rows=20_000, features=5, rounds=3, workers=1, folder=tmp_path)
    assert (memory["rows in"], disk["rows in"]) == ("memory", "disk")
    assert memory["model"] == disk["model"]
    assert memory["peak GiB"] > 0.1
    assert disk["peak GiB"] > 0.1
