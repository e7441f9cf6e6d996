from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from features.errors import NotFoundError, SchemaMismatchError, StorageError
from materialize.publish.published_lists import lists_table
from materialize.publish.scored_tables import BlockFile, ScoredTables, write_block_file
from tests.materialize.scored_rows import rows_of_lists

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgresql"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> ScoredTables:
    """Empty tables on either database."""
    warehouse = tmp_path / "ware house #1" / "tables"
    if request.param == "sqlite":
        return ScoredTables(f"sqlite:///{tmp_path}/home/catalogue.db", warehouse)
    found = ScoredTables(request.getfixturevalue("postgres"), warehouse)
    for name in found.names():
        found._catalog.drop_table(("prescore", name))
    return found


def rows(users: list[int] | list[str], k: int = 3) -> pa.Table:
    n = len(users)
    items = pa.array(np.arange(n * k) % 7)
    return rows_of_lists(
        lists_table(pa.array(users), items, np.linspace(1, 0, n * k).astype(np.float32), np.full(n, k), "")
    )


def write(tables: ScoredTables, generation: str, *blocks: list[int] | list[str]) -> list[Path]:
    return [
        write_block_file(tables.block_path(generation, number, len(blocks)), generation, rows(users)).path
        for number, users in enumerate(blocks)
    ]


def leftovers(tables: ScoredTables, generation: str) -> list[str]:
    return sorted(path.name for path in tables.generation_folder(generation).glob("*"))


def test_a_generation_is_committed_once(tables: ScoredTables) -> None:
    files = write(tables, "g1", [1, 2], [3])
    assert tables.files("g1") == []
    assert tables.commit_generation("g1", files)
    assert not tables.commit_generation("g1", files)
    assert tables.files("g1") == sorted(files)
    assert tables.generations() == ["g1"]
    assert sorted(tables.user_ids("g1").to_pylist()) == [1, 2, 3]
    assert [block.num_rows for block in tables.blocks("g1")] == [6, 3]
    # A handle that was opened before sees it too, and a second opening finds everything.
    assert len(tables.table("recommendations").snapshots()) == 1


def test_a_corrected_generation_replaces_its_files(tables: ScoredTables) -> None:
    tables.commit_generation("g1", write(tables, "g1", [1, 2], [3]))
    tables.commit_generation("g2", write(tables, "g2", [9]))
    files = write(tables, "g1", [1], [4])[:1]
    assert tables.commit_generation("g1", files)
    assert tables.user_ids("g1").to_pylist() == [1]
    assert tables.user_ids("g2").to_pylist() == [9]


def test_no_files_remove_the_rows(tables: ScoredTables) -> None:
    assert not tables.commit_generation("g1", [])
    assert tables.names() == []
    tables.commit_generation("g1", write(tables, "g1", ["a"]))
    assert tables.commit_generation("g1", [])
    assert tables.generations() == []
    assert not tables.commit_generation("g1", [])


def test_a_dropped_generation_leaves_no_file(tables: ScoredTables) -> None:
    tables.commit_generation("g1", write(tables, "g1", [1, 2]))
    tables.commit_generation("g2", write(tables, "g2", [1, 2]))
    tables.drop_generation("g1")
    tables.drop_generation("g1")
    assert tables.generations() == ["g2"]
    assert not tables.generation_folder("g1").exists()
    metadata = tables.folder / "recommendations" / "metadata"
    # The current metadata file, one manifest list, and the manifests that it names.
    assert len(list(metadata.glob("*.metadata.json"))) == 1
    assert len(list(metadata.glob("snap-*.avro"))) == 1
    assert tables.table("recommendations").scan().count() == 6


def test_orphans_of_a_crash_are_collected_and_a_running_build_is_not(tables: ScoredTables) -> None:
    tables.commit_generation("g1", write(tables, "g1", [1]))
    write(tables, "crashed", [1])
    half = tables.generation_folder("crashed") / ".block-000001-of-000002.parquet.77.tmp"
    half.write_bytes(b"PAR1 half a file")
    running = write(tables, "running", [1])
    assert tables.collect_orphans(3600) == []
    assert half in tables.collect_orphans(0, building=["running"])
    assert not tables.generation_folder("crashed").exists()
    assert running[0].exists()
    assert tables.commit_generation("running", running)
    assert tables.generations() == ["g1", "running"]


def test_a_full_disk_leaves_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "block.parquet"
    users = np.random.default_rng(0).permutation(200_000).tolist()
    big = rows(users)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails a write just as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="free space"):
            write_block_file(path, "g", big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    first = write_block_file(tmp_path / "1" / "b.parquet", "g", rows([1, 2]))
    again = write_block_file(tmp_path / "2" / "b.parquet", "g", rows([1, 2]))
    assert first == BlockFile(tmp_path / "1" / "b.parquet", 6, again.sha256)
    assert list((tmp_path / "1").iterdir()) == [tmp_path / "1" / "b.parquet"]


def test_string_ids_and_other_readers(tables: ScoredTables) -> None:
    files = write(tables, "g'1", ["ü", "b/c"])
    tables.commit_generation("g'1", files)
    scanned = tables.table("recommendations").scan().to_arrow()
    plain = ds.dataset([str(f) for f in files]).to_table()
    assert scanned.select(plain.column_names).to_pylist() == plain.to_pylist()
    assert scanned["user_id"].unique().to_pylist() == ["b/c", "ü"]


def test_ids_of_another_type_are_refused(tables: ScoredTables) -> None:
    tables.commit_generation("g1", write(tables, "g1", [1]))
    with pytest.raises(SchemaMismatchError, match="another type"):
        tables.commit_generation("g2", write(tables, "g2", ["a"]))
    assert tables.generations() == ["g1"]


def test_a_block_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatchError, match="score"):
        write_block_file(tmp_path / "b.parquet", "g", rows([1]).drop(["score"]))


def test_joined_tables_are_replaced(tables: ScoredTables) -> None:
    with pytest.raises(NotFoundError, match="'items'"):
        tables.table("items")
    tables.replace("items", pa.table({"item_id": [1, 2], "title": ["a", None]}))
    tables.replace("items", pa.table({"item_id": [3], "title": ["c"]}))
    assert tables.table("items").scan().to_arrow().to_pylist() == [{"item_id": 3, "title": "c"}]
    tables.replace("items", pa.table({"item_id": ["x"], "price": [1.5]}))
    tables.replace("items", pa.table({"item_id": ["x"], "price": [2.5]}))
    assert tables.table("items").scan().to_arrow().to_pylist() == [{"item_id": "x", "price": 2.5}]
    tables.replace("items", pa.table({"item_id": ["x"], "price": [2.5]}).slice(1))
    assert tables.table("items").scan().count() == 0
    tables.collect_orphans(0)
    assert len(list((tables.folder / "items").rglob("*.parquet"))) <= 1


def test_an_erased_user_is_in_no_file(tables: ScoredTables) -> None:
    tables.commit_generation("g1", write(tables, "g1", [1, 2], [3]))
    tables.commit_generation("g2", write(tables, "g2", [2, 4]))
    tables.replace("users", pa.table({"user_id": [1, 2, 3], "age": [20, 30, 40]}))
    assert tables.erase_user(2) == 3 + 3 + 1
    assert tables.erase_user(2) == 0
    left = [pq.ParquetFile(p).read(columns=["user_id"]) for p in tables.folder.rglob("*.parquet")]
    assert sorted(set(pa.concat_tables(left)["user_id"].to_pylist())) == [1, 3, 4]
    assert tables.generations() == ["g1", "g2"]


def test_an_unreachable_database_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"check \[catalogue\] url"):
        ScoredTables("postgresql+psycopg://u:secret@127.0.0.1:1/x", tmp_path)
