"""Scoring on demand: exactly what a full run publishes, no more at once than allowed, no longer than the deadline."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import httpx

from materialize.settings import load_settings
from serving_lookup.answers import Answer
from serving_lookup.metrics import SharedCounters
from serving_lookup.parameters import ListParameters
from serving_lookup.scoring import score_list
from serving_lookup.service import LookupService
from serving_lookup.tracing import Tracing
from tests.serving_lookup.published_world import (
    MODEL,
    PRECOMPUTED,
    PROJECT,
    K,
    Tables,
    live_world,
    start_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from materialize.publish.lookup_artifact import LookupArtifact
    from serving_lookup.user_inputs import UserInputs
    from tests.serving_lookup.published_world import World

MISSES = 1000


def test_a_thousand_misses_are_what_a_full_run_would_have_published(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Bit for bit, what users have bought left out as a run does; then written back, to go by itself."""
    tables = Tables("int64", PRECOMPUTED + MISSES)
    with live_world(tmp_path, tables, exclude_seen=True) as world:
        top = world.expected("g1")
        settings = {"deadline_ms": 100_000, "write_back_seconds": 600}
        with start_service(tmp_path, world.url, free_port(), settings) as service:
            wait_until(lambda: service.get("/health/ready").status_code == 200)
            body = {"users": tables.user_ids[PRECOMPUTED:], "k": K}
            url = f"{service.address}/v1/models/{MODEL}/recommendations:batch"
            answers = httpx.post(url, json=body, timeout=100).json()["users"]
        assert len(answers) == MISSES
        for index, answer in enumerate(answers, PRECOMPUTED):
            found = answer["answer"]
            assert (answer["user_id"], found["source"]) == (tables.user_ids[index], "fallback")
            count = int(top.counts[index])
            items = [(item["item_id"], item["score"]) for item in found["items"]]
            expected = zip(
                top.item_ids[index, :count].tolist(), top.scores[index, :count].tolist(), strict=True
            )
            assert items == list(expected)
        kept = list(world.client.scan_iter("prescore:*:fallback:g1:*", count=10_000))
        assert len(kept) == MISSES
        assert 0 < int(world.client.execute_command("TTL", kept[0])) <= 600  # type: ignore[no-untyped-call]


def test_a_cap_a_deadline_then_the_default_list(own_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five users, room for two: all get the default list at the deadline, and only two were begun."""
    begun: list[UserInputs] = []
    go_on = threading.Event()

    def slow(artifact: LookupArtifact, inputs: UserInputs) -> tuple[list[int | str], list[float]]:
        if inputs.user:  # not the one that warms the kernels
            begun.append(inputs)
            go_on.wait()
        return score_list(artifact, inputs)

    def broken(artifact: LookupArtifact, inputs: UserInputs) -> tuple[list[int | str], list[float]]:
        raise ZeroDivisionError

    monkeypatch.setattr("serving_lookup.fallback.score_list", slow)
    users = own_world.tables.user_ids[PRECOMPUTED : PRECOMPUTED + 5]
    settings = load_settings(
        project=PROJECT,
        model=MODEL,
        store={"url": own_world.url},
        lookup={"deadline_ms": 300, "concurrent_scorings": 2},
    )

    async def ask_all() -> None:
        running = await LookupService.start(settings, SharedCounters(1).claim(), Tracing(""))
        live = running.lookup.live()

        async def ask() -> list[Any]:
            return await running.lookup.recommend_many(live, users, ListParameters(5))

        answers = await ask()
        assert [(a.source, a.reason) for a in answers] == [("default", "deadline")] * 5
        assert len(begun) == 2
        # Who waited past the deadline is dropped, not scored.
        await asyncio.to_thread(wait_until, lambda: running.fallback.under_way == 2)
        go_on.set()
        await asyncio.gather(*running.fallback._flights.values(), return_exceptions=True)
        assert len(begun) == 2
        answers = await ask()
        assert [a.source for a in answers] == ["fallback"] * 5
        assert len(begun) == 5  # the first two were remembered
        # A user whose scoring fails is told so; the other has a list all the same.
        two = [own_world.tables.user_ids[0], own_world.tables.user_ids[PRECOMPUTED + 9]]
        monkeypatch.setattr("serving_lookup.fallback.score_list", broken)
        listed, failed = await running.lookup.recommend_many(live, two, ListParameters(5))
        assert isinstance(listed, Answer)
        assert listed.source == "precomputed"
        assert isinstance(failed, ZeroDivisionError)
        await running.close()

    try:
        asyncio.run(ask_all())
    finally:
        go_on.set()
