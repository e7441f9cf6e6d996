from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.expressions import EqualTo

from features.errors import CallerError, NotFoundError
from materialize.generation.catalogue import Block, Catalogue, Generation, Model
from materialize.generation.joined_tables import replace_catalogue_tables
from materialize.publish.published_lists import lists_table
from materialize.publish.scored_tables import ScoredTables, write_block_file
from materialize.settings import Settings, load_settings
from materialize.tables import read, rows_of
from tests.materialize.scored_rows import rows_of_lists

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Published:
    """Two full generations and a delta on the second; ``times`` says when each went live."""

    settings: Settings
    file: Path
    times: Mapping[str, dt.datetime]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    file = folder / "prescore.toml"
    file.write_text('model = "picks"\n')
    settings = load_settings(file)
    tables, catalogue = ScoredTables.of(settings), Catalogue.open(settings.catalogue_url)
    catalogue.register_model(Model(id="m1", name="picks", path="", schema_hash=""))
    with catalogue.hold_fence("picks", "a test") as fence:
        for name, parent, users, item in (
            ("g1", "", [1, 2], 10),
            ("g2", "", [1, 2, 3], 20),
            ("g3", "g2", [3], 30),
        ):
            generation = Generation(
                id=name,
                model="picks",
                model_id="m1",
                feature_cutoff=CUTOFF,
                k=1,
                users=len(users),
                items=3,
                kind="delta" if parent else "full",
                parent=parent,
            )
            catalogue.begin_generation(fence, generation)
            n = len(users)
            lists = lists_table(
                pa.array(users), pa.array([item] * n), np.full(n, 0.5, np.float32), np.ones(n, int), name
            )
            written = write_block_file(tables.block_path(name, 0, 1), name, rows_of_lists(lists))
            tables.commit_generation(name, [written.path])
            catalogue.record_block(
                fence,
                Block(
                    generation=name,
                    number=0,
                    path=str(written.path),
                    users=n,
                    rows=n,
                    sha256=written.sha256,
                ),
            )
            catalogue.claim_slot(fence, name)
            catalogue.move_generation(fence, name, "validated", rows=n)
            catalogue.complete_flip(catalogue.begin_flip(fence, name, reason="a test"))
    tables.replace("items", pa.table({"item_id": [10, 20, 30], "title": ["ten", "twenty", "thirty"]}))
    tables.replace("users", pa.table({"user_id": [1, 2, 3], "last_event": [CUTOFF] * 3}))
    replace_catalogue_tables(settings, catalogue)
    times = {flip.generation: flip.flipped_at for flip in catalogue.flips("picks")}
    return Published(settings, file, times)


LIST = "SELECT item_id FROM recommendations ORDER BY user_id"


def test_live_chosen_and_as_of(published: Published) -> None:
    settings, times = published.settings, published.times
    assert read(LIST, settings)["item_id"].to_pylist() == [20, 20, 30]
    assert read(LIST, published.file, generation="g2")["item_id"].to_pylist() == [20, 20, 20]
    assert read(LIST, settings, as_of=times["g1"])["item_id"].to_pylist() == [10, 10]
    just_before = times["g3"] - dt.timedelta(microseconds=1)
    assert read(LIST, settings, as_of=just_before)["item_id"].to_pylist() == [20, 20, 20]
    kept = read("SELECT generation, count(*) FROM recommendations_all GROUP BY 1 ORDER BY 1", settings)
    assert [tuple(row.values()) for row in kept.to_pylist()] == [("g1", 2), ("g2", 3), ("g3", 1)]


def test_joined_with_what_the_lists_are_about(published: Published) -> None:
    query = "SELECT user_id, title, kind, model, last_event FROM recommendations_joined ORDER BY user_id"
    rows = read(query, published.settings).to_pylist()
    assert [row["title"] for row in rows] == ["twenty", "twenty", "thirty"]
    assert [row["kind"] for row in rows] == ["full", "full", "delta"]
    assert {row["model"] for row in rows} == {"picks"}
    assert {row["last_event"] for row in rows} == {CUTOFF}


def test_rows_of_a_delta_are_whole(published: Published) -> None:
    catalogue = Catalogue.open(published.settings.catalogue_url)
    rows = pa.concat_tables(rows_of(catalogue, catalogue.generation("g3"))).sort_by("user_id")
    assert rows["generation"].to_pylist() == ["g2", "g2", "g3"]
    assert rows["item_id"].to_pylist() == [20, 20, 30]


def test_what_cannot_be_read(published: Published) -> None:
    settings, times = published.settings, published.times
    with pytest.raises(NotFoundError, match="nothing was live"):
        read(LIST, settings, as_of=times["g1"] - dt.timedelta(seconds=1))
    with pytest.raises(CallerError, match="no zone"):
        read(LIST, settings, as_of=times["g1"].replace(tzinfo=None))
    with pytest.raises(CallerError, match="both"):
        read(LIST, settings, generation="g1", as_of=times["g1"])
    with pytest.raises(NotFoundError, match="g9"):
        read(LIST, settings, generation="g9")


def test_other_engines_read_the_tables_unchanged(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # its own planner is a package of its own
    table = ScoredTables.of(published.settings).table("recommendations")
    ours = read("FROM recommendations_all ORDER BY generation, user_id", published.settings)
    polars = pl.scan_iceberg(table.metadata_location, reader_override="native")
    assert polars.sort("generation", "user_id").collect().to_arrow().cast(ours.schema).equals(ours)
    assert polars.filter(pl.col("user_id") == 3).select(pl.len()).collect().item() == 2
    assert table.scan(row_filter=EqualTo(term="user_id", value=3)).to_arrow().num_rows == 2


def test_a_reader_that_has_seen_enough(published: Published) -> None:
    command = [sys.executable, "-m", "materialize", "--settings", str(published.file), "sql"]
    query = "SELECT u.user_id FROM users u, range(200000) ORDER BY 1"
    with subprocess.Popen(
        [*command, "--output", "json", "--as-of", published.times["g3"].isoformat(), query],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        assert asking.stdout.readline() == b"[\n"
        asking.stdout.close()
        assert asking.stderr.read() == b""
    assert asking.returncode == -signal.SIGPIPE
