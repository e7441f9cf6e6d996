from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from features.errors import CallerError, NotFoundError
from materialize.publish.published_lists import lists_table, rows_of_lists
from materialize.publish.scored_tables import ScoredTables, write_block_file
from materialize.publish.sql import connect, read, run
from materialize.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def tables(settings: Settings) -> ScoredTables:
    return ScoredTables.of(settings)


def publish(tables: ScoredTables, generation: str, users: list[int], item: int) -> None:
    n = len(users)
    lists = lists_table(
        pa.array(users), pa.array([item] * n), np.full(n, 0.5, np.float32), np.ones(n, np.int64), generation
    )
    block = write_block_file(tables.block_path(generation, 0), generation, rows_of_lists(lists))
    tables.commit_generation(generation, [block.path])


def test_views_of_the_live_and_of_all_generations(tables: ScoredTables, settings: Settings) -> None:
    publish(tables, "g1", [1, 2], 10)
    publish(tables, "g2", [2, 3], 20)
    tables.replace("items", pa.table({"item_id": [10, 20], "title": ["ten", "twenty"]}))
    query = "SELECT user_id, title FROM recommendations JOIN items USING (item_id) ORDER BY user_id"
    assert read(query, settings, "g2").to_pylist() == [
        {"user_id": 2, "title": "twenty"},
        {"user_id": 3, "title": "twenty"},
    ]
    assert read(query, settings, "g1")["title"].to_pylist() == ["ten", "ten"]
    everything = read(
        "SELECT generation, count(*) n FROM recommendations_all GROUP BY 1 ORDER BY 1", settings
    )
    assert everything.to_pylist() == [{"generation": "g1", "n": 2}, {"generation": "g2", "n": 2}]


def test_a_delta_covers_its_parents(tables: ScoredTables, settings: Settings) -> None:
    publish(tables, "full", [1, 2, 3], 10)
    publish(tables, "delta1", [2, 3], 20)
    publish(tables, "delta2", [3, 4], 30)
    query = "SELECT user_id, item_id FROM recommendations ORDER BY user_id"
    live = read(query, settings, ["delta2", "delta1", "full"])
    assert live.to_pydict() == {"user_id": [1, 2, 3, 4], "item_id": [10, 20, 30, 30]}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW recommendations",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "ATTACH 'other.db'",
        "SET lock_configuration = false",
        "INSTALL httpfs",
        "SELECT 1; DROP VIEW recommendations",
        "",
    ],
)
def test_what_would_write_is_refused(tables: ScoredTables, settings: Settings, statement: str) -> None:
    publish(tables, "g1", [1], 10)
    with pytest.raises(CallerError, match="only reading"):
        read(statement, settings, "g1")


def test_no_other_file_can_be_read(tables: ScoredTables, settings: Settings, tmp_path: Path) -> None:
    publish(tables, "g1", [1], 10)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(CallerError, match="disabled by configuration"):
        read(f"SELECT * FROM read_csv('{secret}')", settings, "g1")


def test_mistakes_are_explained(tables: ScoredTables, settings: Settings) -> None:
    publish(tables, "g1", [1], 10)
    with pytest.raises(NotFoundError, match="itemz"):
        read("SELECT * FROM itemz", settings, "g1")
    with pytest.raises(CallerError, match="syntax error"):
        read("SELEKT 1", settings, "g1")
    with pytest.raises(NotFoundError, match="recommendations"):
        read("SELECT * FROM recommendations", settings)


def test_before_the_first_publication(settings: Settings) -> None:
    assert read("SELECT 1 AS one", settings).to_pylist() == [{"one": 1}]
    with pytest.raises(NotFoundError, match="recommendations"):
        read("SELECT * FROM recommendations", settings, "g1")


def test_tables_without_rows(tables: ScoredTables, settings: Settings) -> None:
    publish(tables, "g1", [1], 10)
    tables.drop_generation("g1")
    tables.replace("items", pa.table({"item_id": pa.array([], pa.int64())}))
    query = "SELECT (SELECT count(*) FROM recommendations) r, (SELECT count(*) FROM items) i"
    assert read(query, settings, "g1").to_pylist() == [{"r": 0, "i": 0}]


def test_one_user_is_found_without_reading_everything(tables: ScoredTables) -> None:
    users, k = 100_000, 20
    rng = np.random.default_rng(0)
    everyone = rng.permutation(users)
    files = []
    for number, part in enumerate(np.array_split(everyone, 10)):
        scores = np.zeros(len(part) * k, np.float32)
        lists = lists_table(
            pa.array(part), pa.array(np.tile(np.arange(k), len(part))), scores, np.full(len(part), k), "g"
        )
        path = tables.block_path("g", number)
        files.append(write_block_file(path, "g", rows_of_lists(lists)).path)
    tables.commit_generation("g", files)
    with connect(tables, "g") as connection:
        one = "SELECT item_id FROM recommendations WHERE user_id = 4711 ORDER BY rank"
        assert run(connection, one)["item_id"].to_pylist() == list(range(k))
        began = time.perf_counter()
        for _ in range(5):
            run(connection, one)
        assert (time.perf_counter() - began) / 5 < 0.1
