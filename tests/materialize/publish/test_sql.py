"""Queries over tables that were committed for real, and what of the files they open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import CallerError, NotFoundError, StorageError
from features.feature_build import block_range
from features.schema import user_hash
from materialize.publish.published_lists import lists_table
from materialize.publish.scored_tables import ScoredTables, write_block_file
from materialize.publish.sql import read
from materialize.settings import Settings
from tests.materialize.scored_rows import rows_of_lists

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def tables(settings: Settings) -> ScoredTables:
    return ScoredTables.of(settings)


def publish(
    tables: ScoredTables, generation: str, users: list[Any], item: int, blocks: int = 1
) -> list[Path]:
    """One item for each user; the files by the users' hash, as a run writes them."""
    files = []
    hashes = user_hash(pa.array(users))
    for number in range(blocks):
        first, end = block_range(number, blocks)
        here = [user for user, found in zip(users, hashes, strict=True) if first <= found < end]
        if not here:
            continue
        n = len(here)
        lists = lists_table(
            pa.array(here),
            pa.array([item] * n, pa.int64()),
            np.full(n, 0.5, np.float32),
            np.ones(n, np.int64),
            generation,
        )
        path = tables.block_path(generation, number, blocks)
        files.append(write_block_file(path, generation, rows_of_lists(lists)).path)
    tables.commit_generation(generation, files)
    return files


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


@pytest.mark.parametrize("kind", [int, str])
def test_only_the_files_of_the_users_block_are_opened(
    tables: ScoredTables, settings: Settings, kind: type[Any]
) -> None:
    users = [kind(n) for n in range(60)]
    sought, gone = users[41], users[:3]
    publish(tables, "full", users, 10, blocks=8)
    files = publish(tables, "delta", [sought, *gone], 20, blocks=8)
    publish(tables, "other", users, 30, blocks=8)
    tables.replace("items", pa.table({"item_id": [10], "title": ["ten"]}))
    needed = {file.name for file in files if sought in pq.read_table(file)["user_id"].to_pylist()}
    for file in tables.folder.rglob("*.parquet"):
        if file.name not in needed:
            file.write_bytes(b"damaged")
    chain, where = ["delta", "full"], f"WHERE user_id = {sought!r}"
    assert read(f"FROM recommendations {where}", settings, chain)["item_id"].to_pylist() == [20]
    everywhere = f"SELECT item_id FROM recommendations_all {where} ORDER BY 1"
    assert read(everywhere, settings, chain)["item_id"].to_pylist() == [10, 20, 30]
    both = f"SELECT a.item_id FROM recommendations a JOIN recommendations_all b USING (user_id) {where}"
    assert read(both, settings, chain).num_rows == 3
    for more in (
        "FROM recommendations",
        f"FROM recommendations WHERE user_id IN ({sought!r}, {users[0]!r})",
        f"FROM recommendations {where} UNION ALL FROM recommendations_all WHERE item_id = 30",
        f"FROM recommendations WHERE user_id >= {sought!r}",
        f"FROM recommendations {where} OR item_id = 30",
    ):
        with pytest.raises((CallerError, StorageError), match=r"cannot be (answered|read)"):
            read(more, settings, chain)


def test_a_user_whose_block_has_no_file(tables: ScoredTables, settings: Settings) -> None:
    publish(tables, "full", [1, 2], 10, blocks=2)
    publish(tables, "delta", [1], 20)
    for user, item in ((1, [20]), (2, [10]), (3, [])):
        query = f"SELECT item_id FROM recommendations WHERE user_id = {user}"
        assert read(query, settings, ["delta", "full"])["item_id"].to_pylist() == item


def test_an_id_may_hold_anything(tables: ScoredTables, settings: Settings) -> None:
    users = ["a", "a'b", "x\nuser_id='a", "''", "", "a\0b", "😀", "user_id=3"]
    publish(tables, "g1", users, 10, blocks=16)
    for user in users:
        query = "SELECT user_id FROM recommendations WHERE user_id = '{}'".format(user.replace("'", "''"))
        if "\0" in user:
            query = "SELECT user_id FROM recommendations WHERE user_id = 'a' || chr(0) || 'b'"
        assert read(query, settings, "g1")["user_id"].to_pylist() == [user]
