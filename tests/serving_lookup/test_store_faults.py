"""A store that is slow, silent, cut off, restarted or replaced: answers stay marked and in time, and it mends itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.serving_lookup.published_world import (
    MODEL,
    PRECOMPUTED,
    Tables,
    World,
    running_store,
    start_service,
    wait_until,
)
from tests.store_proxy import StoreProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.serving_lookup.published_world import RunningService

DEADLINE_MS = 1000
HIT = f"/v1/models/{MODEL}/users/1/recommendations?k=3"
MISS = f"/v1/models/{MODEL}/users/{PRECOMPUTED + 2}/recommendations?k=3"


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_store() as server:
        world = World(server, tmp_path_factory.mktemp("world"), Tables("int64"))
        world.load_features()
        world.flip(world.build("g1", "a", 1))
        yield world
        world.client.close()


@pytest.fixture(scope="module")
def proxy(primary: World) -> Iterator[StoreProxy]:
    with StoreProxy(primary.server.port) as between:
        yield between


@pytest.fixture(scope="module")
def proxied(
    proxy: StoreProxy, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[RunningService]:
    settings = {"deadline_ms": DEADLINE_MS, "write_back_seconds": 0}
    folder = tmp_path_factory.mktemp("service")
    with start_service(folder, f"redis://127.0.0.1:{proxy.port}", free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200, 60)
        yield service


def sources(service: RunningService) -> tuple[Any, Any]:
    """Of a hit and of a miss, with the reason if there is one."""
    found = []
    for path in (HIT, MISS):
        response = service.get(path)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert len(answer["items"]) == 3
        found.append(answer.get("reason", answer["source"]))
    return found[0], found[1]


def test_a_slow_store_is_waited_for_within_the_deadline(proxy: StoreProxy, proxied: RunningService) -> None:
    proxy.delay = 0.05
    assert sources(proxied) == ("precomputed", "fallback")
    proxy.delay = 60.0
    assert sources(proxied) == ("store_unavailable", "store_unavailable")
    wait_until(lambda: proxied.get("/health/ready").status_code == 503)
    assert "no reply" in str(proxied.get("/health/ready").json()["trouble"])
    assert sources(proxied) == ("store_unavailable", "store_unavailable")
    proxy.delay = 0.0
    proxy.cut()  # what is held back would be passed on in a minute
    wait_until(lambda: proxied.get("/health/ready").status_code == 200)
    assert sources(proxied) == ("precomputed", "fallback")
    assert proxied.metric("prescore_store_waiting") < 10


def test_a_cut_connection_is_made_anew(proxy: StoreProxy, proxied: RunningService) -> None:
    for _ in range(5):
        before = proxy.connections
        proxy.cut()
        wait_until(lambda n=before: proxy.connections > n)
        wait_until(lambda: sources(proxied) == ("precomputed", "fallback"))
    assert proxied.process.poll() is None


def test_a_replica_takes_over(primary: World, proxy: StoreProxy, proxied: RunningService) -> None:
    """As behind an address that moves: the old primary is gone, its replica is promoted and answers."""
    with running_store() as server:
        replica = redis.Redis(port=server.port)
        replica.replicaof("127.0.0.1", primary.server.port)
        replication: Any = lambda: replica.info("replication")  # noqa: E731 - redis-py's type is of two clients
        wait_until(lambda: replication()["master_link_status"] == "up")
        wait_until(lambda: replica.dbsize() == primary.client.dbsize())
        proxy.target = 1  # nobody is there
        proxy.cut()
        wait_until(lambda: proxied.get("/health/ready").status_code == 503)
        assert sources(proxied) == ("store_unavailable", "store_unavailable")
        replica.replicaof("NO", "ONE")
        proxy.target = server.port
        wait_until(lambda: proxied.get("/health/ready").status_code == 200)
        assert sources(proxied) == ("precomputed", "fallback")
        replica.flushall()  # a store that came back empty: the pointer is gone, so what was live goes on
        assert sources(proxied) == ("unknown_user", "unknown_user")
        wait_until(lambda: "no generation" in str(proxied.get("/health/ready").json()["trouble"]))
        replica.close()
        proxy.target = primary.server.port
        proxy.cut()
    wait_until(lambda: sources(proxied) == ("precomputed", "fallback"))
