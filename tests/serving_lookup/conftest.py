"""A published world and a running service, shared by the tests of the look-up service."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.serving_lookup.published_world import (
    RunningService,
    Tables,
    World,
    live_world,
    start_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port that nothing listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session", params=["int64", "string"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Generation ``g1`` live in slot a, with either kind of ids. Tests that change it put it back."""
    with live_world(tmp_path_factory.mktemp("world"), Tables(request.param)) as made:
        yield made


@pytest.fixture(scope="session")
def service(
    world: World, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[RunningService]:
    """A server of two workers on that world."""
    settings = {"workers": 2, "deadline_ms": 2000}
    with start_service(tmp_path_factory.mktemp("service"), world.url, free_port(), settings) as running:
        # Each request is a connection of its own, so this many reach both workers.
        wait_until(lambda: {running.get("/health/ready").status_code for _ in range(12)} == {200}, 60)
        yield running


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """As ``world``, with whole-number ids, for a test that does not put things back."""
    with live_world(tmp_path, Tables("int64")) as made:
        yield made
