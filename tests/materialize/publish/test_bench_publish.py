from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from materialize.cli.bench_publish_race import Contestant, race
from materialize.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


def test_ratios_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    clock = [0.0]
    monkeypatch.setattr("materialize.cli.bench_publish_race.time.perf_counter", lambda: clock[0])

    def taking(name: str, *seconds: float) -> Contestant:
        left = iter(seconds)

        def write() -> None:
            turns.append(name)
            clock[0] += next(left)

        return Contestant(name, 10, write)

    ours, theirs = race([taking("ours", 9.0, 0.1, 0.1, 0.4), taking("theirs", 9.0, 0.5, 0.2, 0.8)], 3)
    assert turns == ["ours", "theirs"] * 4
    assert (ours.name, ours.ours_is_times_as_fast) == ("ours", 1.0)
    assert theirs.users_per_second == pytest.approx(20)
    assert theirs.ours_is_times_as_fast == pytest.approx(2)


@pytest.mark.filterwarnings("ignore")
def test_the_command_measures_every_contestant(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [
        "bench",
        "publish",
        "--users",
        "2000",
        "--rounds",
        "1",
        "--json",
        str(file),
        "--output",
        "json",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert json.loads(file.read_text()) == document
    assert [c["name"] for c in document["contestants"]] == [
        "prescore, from arrays",
        "the same over a Unix socket",
        "ready bytes (the limit)",
        "redis-py pipeline, values ready",
        "feast write_to_online_store",
        "feast materialize (Feast's default offline store, file)",
        "feast materialize (DuckDB offline store)",
    ]
    assert list(document["feast_engine"]) == ["Feast's default offline store, file", "DuckDB offline store"]
    for engines in document["feast_engine"].values():
        assert [c["name"] for c in engines] == [
            "prescore's engine",
            "feast's engine",
            "prescore's engine, every row there already",
        ]
        assert all(c["users_per_second"] > 0 for c in engines)
    assert all(c["users_per_second"] > 0 for c in document["contestants"])
    one_slot, user = document["memory"]
    assert 400 < one_slot["ours"] < one_slot["feast_default"] < 900
    assert one_slot["ours"] < user["ours"] <= 0.7 * user["feast_default"]
    assert 400 < document["wire_bytes_per_user"] < 600
