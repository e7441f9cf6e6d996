from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

from materialize.cli.bench_publish_race import Contestant, race
from materialize.cli.main import app


def test_ratios_are_medians_of_rounds() -> None:
    turns: list[str] = []

    def sleeping(name: str, seconds: float) -> Contestant:
        def write() -> None:
            turns.append(name)
            time.sleep(seconds)

        return Contestant(name, 10, write)

    ours, theirs = race([sleeping("ours", 0.01), sleeping("theirs", 0.05)], 3)
    assert turns == ["ours", "theirs"] * 4
    assert (ours.name, ours.ours_is_times_as_fast) == ("ours", 1.0)
    assert theirs.users_per_second == pytest.approx(200, rel=0.2)
    assert 2 < theirs.ours_is_times_as_fast < 8


@pytest.mark.filterwarnings("ignore")
def test_the_command_measures_every_contestant() -> None:
    done = CliRunner().invoke(
        app, ["bench", "publish", "--users", "2000", "--rounds", "1", "--output", "json"]
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
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
