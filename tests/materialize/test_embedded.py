"""The embedded Valkey: outlives the command, is found again, survives kill -9 with its data."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import redis

from features.errors import StoreError
from materialize import embedded
from materialize.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from materialize.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = load_settings(None, home=tmp_path)
    yield settings
    embedded.stop_all(settings)


def _client(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(embedded.with_store(settings).store.url.get_secret_value())


def test_it_is_started_once_and_keeps_its_data_through_kill_9(settings: Settings) -> None:
    with _client(settings) as client:
        client.set("a", "1")
        time.sleep(1.2)  # appendfsync everysec
    found = embedded.EmbeddedServer("valkey", settings).running()
    assert found is not None
    with _client(settings) as client:
        assert client.info("server")["process_id"] == found.pid
    os.kill(found.pid, signal.SIGKILL)
    while found.alive:
        time.sleep(0.01)
    assert embedded.EmbeddedServer("valkey", settings).running() is None
    with _client(settings) as client:
        assert client.get("a") == b"1"
    again = embedded.EmbeddedServer("valkey", settings).running()
    assert again is not None
    assert again.port == found.port


def test_another_store_is_left_alone(settings: Settings) -> None:
    store = settings.store.model_copy(update={"url": type(settings.store.url)("redis://elsewhere:1")})
    elsewhere = settings.model_copy(update={"store": store})
    assert embedded.with_store(elsewhere) is elsewhere
    assert not (settings.home / "run").exists()


def test_a_store_that_does_not_answer_is_told(settings: Settings) -> None:
    reachable = embedded.with_store(settings)
    embedded.check_store(reachable)
    embedded.stop_all(settings)
    with pytest.raises(StoreError, match="refused"):
        embedded.check_store(reachable)


def test_stop_ends_what_was_started(settings: Settings) -> None:
    _client(settings).close()
    assert embedded.stop_all(settings) == ["valkey"]
    assert embedded.stop_all(settings) == []


def test_a_server_that_ends_at_once_is_reported_with_its_log(settings: Settings) -> None:
    settings.home.mkdir(exist_ok=True)
    server = embedded.EmbeddedServer("service", settings)
    with pytest.raises(StoreError, match="no such table"):
        server.start(["sh", "-c", "echo no such table; exit 3"], "127.0.0.1", 1, b"x", b"y")
