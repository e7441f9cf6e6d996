"""The scorer's benchmarks run from end to end, measure correct answers, and print what they promise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from features.build import build_features
from features.errors import CallerError
from materialize.cli import bench_scale, bench_scorer
from materialize.cli.bench_scorer_journey import JourneyWorld
from materialize.cli.bench_scorer_world import SHAPES, Shape, World
from materialize.settings import load_settings
from tests import shop
from tests.materialize.generation.shop_models import random_bundle

if TYPE_CHECKING:
    from pathlib import Path


def bench(*options: str) -> None:
    app = typer.Typer()
    bench_scorer.register(app)
    bench_scale.register(app)
    result = CliRunner().invoke(app, [*options, "--output", "json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "shape",
    [Shape(4, 3), Shape(4, 3, affinity=2), Shape(4, 3, pair=2), Shape(4, 3, latent=3)],
    ids=lambda s: s.name,
)
def test_each_kind_of_shape_is_measured_on_correct_scores(shape: Shape) -> None:
    row = bench_scorer.measure(World(shape, 40), rounds=1, peers=False)
    assert row["shape"] == shape.name
    assert row["largest error"] < 1e-5
    assert row["x inplace_predict"] > 0
    assert row["x with its matrix"] > 0
    assert row["x tl2cgen"] is None


def test_peers_are_measured_beside_it() -> None:
    row = bench_scorer.measure(World(Shape(2, 2), 40), rounds=1)
    assert row["x lightgbm"] > 0
    assert row["x tl2cgen"] > 0 or "tl2cgen" in row["left out"]
    assert row["x lleaves"] is not None or "lleaves" in row["left out"]


def test_a_trained_model_is_measured_on_correct_scores(tmp_path: Path) -> None:
    settings = load_settings(shop.write_shop(tmp_path))
    build = build_features(settings, shop.CUTOFF, settings.features_path)
    world = JourneyWorld(random_bundle(settings, 1), build)
    assert {scope.kind for scope in (c.scope for c in world.bundle.schema.columns)} == {
        "user", "item", "affinity", "pair",
    }  # fmt: skip
    row = bench_scorer.measure(world, rounds=1)
    assert row["largest error"] < 1e-5
    assert row["x inplace_predict"] > 0
    assert (row["required"], row["aim"]) == (60, 100)


def test_deltas_and_workers_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "scorer.json"
    bench(
        "scorer",
        "--only",
        "delta",
        "--only",
        "workers",
        "--items",
        "200",
        "--rounds",
        "1",
        "--json",
        str(file),
    )
    document = json.loads(file.read_text())
    assert list(document) == ["delta", "workers"]
    (delta,), (workers,) = document["delta"], document["workers"]
    assert delta["equal"] is True
    assert delta["users"] == 3200
    assert 0 < delta["users rescored"] < 640
    assert delta["full / delta"] > 0
    assert workers["ratio"] > 0
    assert workers["task ms"] > 0


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(CallerError, match="nothing to measure is called 7x7"):
        bench("scorer", "--only", "7x7")


def test_scale_writes_rows_and_a_picture(tmp_path: Path) -> None:
    file, picture = tmp_path / "scale.json", tmp_path / "scale.svg"
    bench("scale", "--users", "200", "--items", "80", "--json", str(file))
    rows = json.loads(file.read_text())
    sizes = [(50, 20), (50, 40), (50, 80), (100, 80), (200, 80)]
    assert [(row["users"], row["items"]) for row in rows] == sizes
    assert all(row["seconds"] > 0 and row["MB written"] > 0 for row in rows)
    assert b"<svg" in picture.read_bytes()


def test_shapes_are_those_that_are_promised() -> None:
    assert [shape.name for shape in SHAPES][:3] == ["100x6", "300x6", "500x8"]
