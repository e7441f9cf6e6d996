"""The bench of ranking: its goals, and the data set that it fetches."""

import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from features.errors import CallerError
from materialize.cli import movielens
from materialize.cli.bench_ranking import GOALS, Data, goal_rows
from materialize.settings import SETTINGS_FILE, load_settings


def quality(value: float) -> dict[str, Any]:
    measures = {"ndcg@10": value, "recall@10": value, "recall@50": value}
    part = measures | {"intervals": {name: [value * 0.9, value * 1.1] for name in measures}}
    return part | {"new_items": part}


@pytest.mark.parametrize(("ours", "reached"), [(0.5, {"aim"}), (0.095, {"no", "yes"}), (0.05, {"no"})])
def test_goals_are_ratios_to_baselines(ours: float, reached: set[str]) -> None:
    for data, goals in GOALS.items():
        methods = {goal.baseline: quality(0.1) for goal in goals} | {"model": quality(ours)}
        rows = goal_rows(data, methods)
        assert {row["reached"] for row in rows} <= reached
        assert all(row["ratio"] == pytest.approx(ours / 0.1) for row in rows)
    within_chance = next(
        row
        for row in goal_rows(
            Data.COMPLETE_JOURNEY,
            {
                **{goal.baseline: quality(0.1) for goal in GOALS[Data.COMPLETE_JOURNEY]},
                "model": quality(0.095),
            },
        )
        if row["against"] == "tifu_knn"
    )
    assert (within_chance["must"], within_chance["reached"]) == (pytest.approx(0.9), "yes")


def test_movielens_becomes_three_tables_and_guessed_settings(tmp_path: Path) -> None:
    source = tmp_path / ".source"
    source.mkdir()
    ratings = "".join(
        f"u{user}\tFilm “{film}”, the (1999)\t{1 + (user + film) % 5}\t{978300760 + 40000 * (user * 9 + film)}\n"
        for user in range(12)
        for film in range(9)
    )
    films = "".join(f"Film “{film}”, the (1999)\tFilm\t1999\tDrama War\n" for film in range(9))
    users = "".join(f"u{user}\t25\tF\t3\t12345\n" for user in range(12))
    with zipfile.ZipFile(source / "package.whl", "w") as wheel:
        for suffix, text in (
            ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + ratings),
            ("item", "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token\n" + films),
            ("user", "user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\n" + users),
        ):
            wheel.writestr(f"{movielens.INSIDE}.{suffix}", text)
    movielens.prepare(tmp_path)
    assert pq.read_table(tmp_path / "ratings.parquet").num_rows == 108
    assert pq.read_table(tmp_path / "films.parquet")["genre"].unique().to_pylist() == ["Drama"]
    settings = load_settings(tmp_path / SETTINGS_FILE)
    assert (settings.events.user, settings.events.item, settings.events.time) == (
        "user_id",
        "item_id",
        "rated_at",
    )
    assert settings.events.min_value == 4


def test_a_package_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CallerError, match="cannot be downloaded"):
        movielens.fetch(tmp_path)
