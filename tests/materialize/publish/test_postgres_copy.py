from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from features.errors import NotFoundError, StorageError
from materialize.publish.postgres_copy import copy_generation as copy_rows
from materialize.publish.published_lists import lists_table
from materialize.publish.scored_tables import ScoredTables, write_block_file
from tests.materialize.scored_rows import rows_of_lists

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tables(tmp_path: Path) -> ScoredTables:
    return ScoredTables(f"sqlite:///{tmp_path}/catalogue.db", tmp_path / "tables")


@pytest.fixture
def schema() -> str:
    return f"s{uuid4().hex}"


def publish(tables: ScoredTables, generation: str, *blocks: list[Any], item: Any = 7, k: int = 2) -> None:
    paths = []
    for number, users in enumerate(blocks):
        n = len(users) * k
        scores = np.linspace(1, -1, n).astype(np.float32)
        lists = lists_table(pa.array(users), pa.array([item] * n), scores, np.full(len(users), k), generation)
        path = tables.block_path(generation, number, len(blocks))
        paths.append(write_block_file(path, generation, rows_of_lists(lists)).path)
    tables.commit_generation(generation, paths)


def copy_generation(tables: ScoredTables, generation: str, url: str, *rest: Any) -> int:
    columns = ["generation", "user_id", "rank", "item_id", "score"]
    return copy_rows(tables.blocks(generation, columns), generation, url, *rest)


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute(query).fetchall()


def test_the_copy_equals_the_generation(tables: ScoredTables, postgres: str, schema: str) -> None:
    users = ['quote " and , comma', "ü\nnewline", "", "plain"]
    publish(tables, "g1", users[:2], users[2:], item="it's\\N")
    told: list[int] = []
    assert copy_generation(tables, "g1", postgres, schema, told.append) == 8
    assert told == [4, 8]
    rows = ask(postgres, f"SELECT * FROM {schema}.recommendations")
    expected = [tuple(row.values()) for block in tables.blocks("g1") for row in block.to_pylist()]
    assert sorted(row[1:4] for row in rows) == sorted(row[:3] for row in expected)
    # PostgreSQL prints the shortest decimals that mean the same 32 bits.
    assert sorted(np.float32(row[4]) for row in rows) == sorted(np.float32(row[3]) for row in expected)
    assert {row[0] for row in rows} == {"g1"}


def test_the_view_moves_and_old_tables_go(tables: ScoredTables, postgres: str, schema: str) -> None:
    publish(tables, "g1", [1, 2])
    publish(tables, "g2", [3])
    copy_generation(tables, "g1", postgres, schema)
    assert copy_generation(tables, "g1", postgres, schema) == 0
    assert copy_generation(tables, "g2", postgres, schema) == 2
    assert ask(postgres, f"SELECT DISTINCT user_id FROM {schema}.recommendations") == [(3,)]
    assert ask(postgres, f"SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'") == [(1,)]


def test_readers_see_one_whole_generation(tables: ScoredTables, postgres: str, schema: str) -> None:
    for number in range(4):
        publish(tables, f"g{number}", list(range(2000)))
    copy_generation(tables, "g0", postgres, schema)
    seen: list[list[tuple[Any, ...]]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(
                ask(postgres, f"SELECT generation, count(*) FROM {schema}.recommendations GROUP BY 1")
            )

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 4):
        copy_generation(tables, f"g{number}", postgres, schema)
    time.sleep(0.1)
    stop.set()
    reader.join()
    assert {len(answer) for answer in seen} == {1}
    assert {answer[0][1] for answer in seen} == {4000}


def test_a_copy_that_fails_leaves_the_one_before(tables: ScoredTables, postgres: str, schema: str) -> None:
    publish(tables, "g1", [1])
    publish(tables, "g2", [2], [3])
    copy_generation(tables, "g1", postgres, schema)

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_generation(tables, "g2", postgres, schema, stop)
    assert ask(postgres, f"SELECT DISTINCT generation FROM {schema}.recommendations") == [("g1",)]
    assert copy_generation(tables, "g2", postgres, schema) == 4


def test_what_cannot_be_copied(tables: ScoredTables, postgres: str) -> None:
    with pytest.raises(NotFoundError, match="no rows"):
        copy_generation(tables, "nope", postgres)
    publish(tables, "g1", [1])
    with pytest.raises(StorageError, match="cannot be used") as caught:
        copy_generation(tables, "g1", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
