"""The bench runs from end to end, small, and what it measures answers without a failure."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import typer
from typer.testing import CliRunner

from materialize.cli import bench_lookup
from materialize.cli.bench_lookup_load import interleave

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SHARES = (0.5, 1.0)
SMALL = [
    "--users",
    "200",
    "--items",
    "200",
    "--trees",
    "5",
    "--seconds",
    "0.3",
    "--rounds",
    "1",
    "--no-feast",
    "--overload",
    "1",
]


def test_every_subject_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_lookup, "SHARES", SHARES)
    app = typer.Typer()
    app.callback()(lambda: None)
    bench_lookup.register(app)
    file = tmp_path / "bench.json"
    done = CliRunner().invoke(app, ["lookup", *SMALL, "--json", str(file), "--output", "json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert json.loads(file.read_text()) == document
    rows = {row["what"]: row for row in document["rows"]}
    measured = {name: row for name, row in rows.items() if "benchmark" not in name}
    assert set(measured) == {
        "GET, same generator",
        "HMGET of a list, same generator",
        "hits, JSON, k = 20",
        "hits, MessagePack, k = 20",
        "misses, scored on demand",
        "95% hits, latency of those",
        "batch of 100 hits",
    }
    for row in measured.values():
        assert row["failures"] == 0
        assert row["requests/s"] > 0
        assert row["p50 ms"] <= row["p99 ms"]
    assert rows["batch of 100 hits"]["users/s"] >= 99 * rows["batch of 100 hits"]["requests/s"]
    assert [row["share"] for row in document["latency"]] == list(SHARES)
    (start,) = document["start"]
    assert start["ready after s"] > 0
    assert start["MiB a worker"] > start["MiB of the artifact in it"] > 0
    (overload,) = document["overload"]
    assert overload["failures"] == 0
    assert overload["answered/s"] > 0
    assert file.with_suffix(".svg").read_text().count("<svg") == 1


def test_misses_are_strewn_evenly() -> None:
    mixed = list(interleave([b"many"] * 190, [b"few"], 0.05))
    assert len(mixed) == 200
    few = [n for n, (request, _) in enumerate(mixed) if request == b"few"]
    assert {b - a for a, b in pairwise(few)} == {20}
    assert all(timed == (request == b"many") for request, timed in mixed)
