"""The scorer's benchmarks measure correct answers, and print what they promise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from materialize.cli import bench_scale, bench_scorer
from materialize.cli.bench_scorer_world import SHAPES, Shape

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "shape",
    [Shape(4, 3), Shape(4, 3, affinity=2), Shape(4, 3, pair=2), Shape(4, 3, latent=3)],
    ids=lambda s: s.name,
)
def test_each_kind_of_shape_is_measured_on_correct_scores(shape: Shape) -> None:
    (row,) = bench_scorer.bench_scorer([shape], items=40, rounds=1, peers=False)
    assert row["shape"] == shape.name
    assert row["largest error"] < 1e-5
    assert row["x inplace_predict"] > 0


def test_peers_are_measured_beside_it() -> None:
    (row,) = bench_scorer.bench_scorer([Shape(2, 2)], items=40, rounds=1)
    assert row["x lightgbm"] > 0


def test_scale_writes_rows_and_a_picture(tmp_path: Path) -> None:
    app = typer.Typer()
    bench_scorer.register(app)
    bench_scale.register(app)
    file, picture = tmp_path / "scale.json", tmp_path / "scale.png"
    options = [
        "--users",
        "200",
        "--items",
        "80",
        "--json",
        str(file),
        "--plot",
        str(picture),
        "--output",
        "json",
    ]
    result = CliRunner().invoke(app, ["scale", *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())
    assert [(row["users"], row["items"]) for row in rows] == [
        (50, 80),
        (100, 80),
        (200, 20),
        (200, 40),
        (200, 80),
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_shapes_are_those_that_are_promised() -> None:
    assert [shape.name for shape in SHAPES][:3] == ["100x6", "300x6", "500x8"]
