"""The order of sources when a list has grown old, and when there is too much to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import psutil  # type: ignore[import-untyped]  # it has no stubs
import pytest

from tests.serving_lookup.load import fetch
from tests.serving_lookup.published_world import MODEL, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import World

PATH = f"/v1/models/{MODEL}/users/1/recommendations?k=5"


@pytest.mark.parametrize(
    ("policy", "first", "then"),
    [("serve", "stale", "stale"), ("refresh", "stale", "fallback"), ("score", "fallback", "fallback")],
)
def test_stale_lists(
    world: World, tmp_path: Path, free_port: Callable[[], int], policy: str, first: str, then: str
) -> None:
    if world.tables.id_type == "string":
        path = f"/v1/models/{MODEL}/users/user%200/recommendations?k=5"
    else:
        path = PATH
    world.forget_on_demand_lists()
    settings = {"max_age_seconds": 0.001, "stale": policy, "deadline_ms": 5000}
    with start_service(tmp_path, world.url, free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        answers = [service.get(path)]
        assert answers[0].json()["source"] == first
        assert "etag" not in answers[0].headers

        def settled() -> bool:
            answers.append(service.get(path))
            return bool(answers[-1].json()["source"] == then)

        wait_until(settled)
        assert {str(a.json()["items"]) for a in answers} == {str(answers[0].json()["items"])}
        batch = {"users": [path.split("/")[5].replace("%20", " ")], "k": 5}
        found = httpx.post(
            f"{service.address}/v1/models/{MODEL}/recommendations:batch", json=batch, timeout=10
        )
        assert found.json()["users"][0]["answer"]["source"] == then


def test_too_much_at_once_is_refused_and_over_soon(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async def ask(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await fetch(reader, writer, PATH)
        writer.close()
        return status

    async def ask_all(port: int) -> list[int]:
        return await asyncio.gather(*(ask(port) for _ in range(100)))

    settings = {"max_under_way": 20, "deadline_ms": 1500}
    with start_service(tmp_path, own_world.url, free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        port = int(service.address.rsplit(":", 1)[1])
        store = psutil.Process(own_world.server._process.pid)
        store.suspend()  # so that requests stay under way
        try:
            statuses = asyncio.run(ask_all(port))
        finally:
            store.resume()
        assert statuses.count(503) >= 50
        assert statuses.count(200) >= 20
        assert service.metric('prescore_events_total{event="shed"}') == statuses.count(503)
        wait_until(lambda: service.get(PATH).json()["source"] == "precomputed", 2)
