"""The client against a real server, and its retries against one that fails."""

from __future__ import annotations

import asyncio
import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from features.errors import CallerError, NotFoundError, RetryableError
from serving_lookup.client import AsyncLookupClient, LookupClient, Recommendations, RetryBudget
from tests.serving_lookup.published_world import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.serving_lookup.published_world import RunningService, World


def test_blocking_and_asynchronous_clients_agree(world: World, service: RunningService) -> None:
    user, item = world.tables.user_ids[0], world.tables.item_ids[7]

    async def ask() -> list[object]:
        async with AsyncLookupClient(service.address, MODEL) as client:
            one = await client.recommendations(user, k=3, exclude=[item], fields=["title"])
            batch = await client.batch([user, world.tables.user_ids[1]], k=2)
            pair = await client.pair_score(user, item)
            inline = await client.score({"user": {"age": 30.0}}, k=2)
            return [one.items, [b.answer and b.answer.items for b in batch], pair.score, inline.items]

    with LookupClient(service.address, MODEL) as client:
        one = client.recommendations(user, k=3, exclude=[item], fields=["title"])
        batch = client.batch([user, world.tables.user_ids[1]], k=2)
        pair = client.pair_score(user, item)
        inline = client.score({"user": {"age": 30.0}}, k=2)
        assert len(one.items) == 3
        assert one.source == "precomputed"
        assert one.to_dict()["items"][0]["item_id"] == one.items[0].item_id
        assert item not in {i.item_id for i in one.items}
        assert asyncio.run(ask()) == [
            one.items,
            [b.answer and b.answer.items for b in batch],
            pair.score,
            inline.items,
        ]


@pytest.mark.parametrize("user", [".", ".."])
def test_ids_that_no_address_can_hold(world: World, service: RunningService, user: str) -> None:
    async def ask() -> Recommendations:
        async with AsyncLookupClient(service.address, MODEL) as client:
            return await client.recommendations(user, k=2)

    with LookupClient(service.address, MODEL) as client:
        if world.tables.id_type == "string":
            assert client.recommendations(user, k=2).reason == asyncio.run(ask()).reason == "unknown_user"
        else:
            with pytest.raises(CallerError, match="whole number"):
                client.recommendations(user)


def test_wrong_requests_are_the_callers(world: World, service: RunningService) -> None:
    with LookupClient(service.address, MODEL) as client, pytest.raises(CallerError, match="from 1 to 1000"):
        client.recommendations(world.tables.user_ids[0], k=0)
    with (
        LookupClient(service.address, "other") as client,
        pytest.raises(NotFoundError, match="no model 'other'"),
    ):
        client.recommendations(1)


@pytest.fixture
def failing() -> Iterator[tuple[str, list[str]]]:
    """A server that answers 503 twice, then an answer, and notes what it was asked."""
    asked: list[str] = []
    answer = (
        b'{"items":[],"source":"default","generation":"g","model":"m","feature_cutoff":"t","age_seconds":1}'
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"detail":"busy"}' if len(asked) % 3 else answer
            self.send_response(503 if len(asked) % 3 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_retries_until_the_budget_is_spent(failing: tuple[str, list[str]]) -> None:
    url, asked = failing
    with LookupClient(url, "m", retries=2) as client:
        assert isinstance(client.recommendations("a/b"), Recommendations)
    assert asked == ["/v1/models/m/users/a%2Fb/recommendations?k=20"] * 3
    asked.clear()
    with (
        LookupClient(url, "m", retries=5, budget=RetryBudget(share=0, burst=1)) as client,
        pytest.raises(RetryableError, match="busy"),
    ):
        client.recommendations("u")
    assert len(asked) == 2

    async def ask() -> Recommendations:
        async with AsyncLookupClient(url, "m", retries=3) as client:
            return await client.recommendations("u")

    assert asyncio.run(ask()).source == "default"


def test_nobody_there(free_port: Callable[[], int]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with (
        LookupClient(address, "m", retries=1) as client,
        pytest.raises(RetryableError, match="cannot be reached"),
    ):
        client.recommendations(1)
