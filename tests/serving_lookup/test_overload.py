"""More requests than can be answered: some are refused at once, the rest are served, and nothing piles up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # it has no stubs

from materialize.cli.bench_lookup_load import Load, measure
from tests.serving_lookup.published_world import MODEL, start_service, wait_until
from tests.store_proxy import StoreProxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import World

UNDER_WAY, STORE_SECONDS = 10, 0.05
CAPACITY = UNDER_WAY / STORE_SECONDS
"""Requests per second that can be answered: so many at a time, each waiting so long for the store."""

REQUEST = b"GET /v1/models/%b/users/%d/recommendations?k=3 HTTP/1.1\r\nhost: x\r\n\r\n"


def test_twice_the_capacity_is_shed_and_over_soon(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    requests = [REQUEST % (MODEL.encode(), user) for user in range(1, 100)]
    with StoreProxy(own_world.server.port) as proxy:
        settings = {"max_under_way": UNDER_WAY, "deadline_ms": 5000}
        with start_service(tmp_path, f"redis://127.0.0.1:{proxy.port}", free_port(), settings) as service:
            wait_until(lambda: service.get("/health/ready").status_code == 200)
            port = int(service.address.rsplit(":", 1)[1])
            load = Load("http", port, requests, connections=100, rate=2 * CAPACITY)
            (worker,) = psutil.Process(service.process.pid).children()
            measure(load, seconds=0.5)
            before = worker.memory_info().rss
            proxy.delay = STORE_SECONDS
            result = measure(load, seconds=4)
            proxy.delay = 0.0
            assert result.shed > 0
            assert result.requests - result.shed > 0
            assert result.failures == 0
            assert worker.memory_info().rss - before < 20 * 2**20
            wait_until(lambda: service.get("/health/ready").status_code == 200)
            wait_until(lambda: service.get(f"/v1/models/{MODEL}/users/1/recommendations").status_code == 200)
            assert service.metric("prescore_store_waiting") <= 1
            assert service.metric('prescore_events_total{event="shed"}') >= result.shed
