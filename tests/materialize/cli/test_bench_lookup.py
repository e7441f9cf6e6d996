"""The bench runs from end to end, small, and what it measures answers without a failure."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from materialize.cli.bench_lookup import register

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
]


def test_every_subject_is_measured() -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    done = CliRunner().invoke(app, ["lookup", *SMALL, "--output", "json"])
    assert done.exit_code == 0, done.output
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {
        "raw GET",
        "raw HMGET of a list",
        "hits, JSON, k = 20",
        "hits, MessagePack, k = 20",
        "misses, scored on demand",
        "batch of 100 hits",
    }
    for row in rows.values():
        assert row["failures"] == 0
        assert row["requests/s"] > 0
        assert row["p50 ms"] <= row["p99 ms"]
    assert rows["batch of 100 hits"]["users/s"] >= 99 * rows["batch of 100 hits"]["requests/s"]
