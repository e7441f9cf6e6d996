"""Flips under load: no request fails and no answer mixes two generations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.serving_lookup.load import Load
from tests.serving_lookup.published_world import MODEL, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import RunningService, World


def expected_lists(world: World, generation: str) -> dict[Any, list[tuple[int, float]]]:
    top = world.expected(generation)
    lists = {}
    for user, ids, scores, count in zip(
        top.user_ids.to_pylist(), top.item_ids.tolist(), top.scores.tolist(), top.counts.tolist(), strict=True
    ):
        lists[user] = list(zip(ids[:count], scores[:count], strict=True))
    return lists


def test_flips_under_load_neither_fail_nor_mix(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    world, users = own_world, own_world.tables.user_ids

    async def flip_on_and_on(address: str) -> Load:
        load = Load(
            address, lambda n: f"/v1/models/{MODEL}/users/{users[n * 31 % len(users)]}/recommendations?k=9"
        )
        await asyncio.sleep(0.3)
        pointers = {}
        for n in range(
            2, 7
        ):  # as fast as it goes: a slot is overwritten before the service has polled the pointer
            pointers[n] = await asyncio.to_thread(world.build, f"g{n}", "a" if n % 2 else "b", n)
            world.flip(pointers[n])
        await asyncio.sleep(1)
        # A rollback, and at once the slot that was left is overwritten: readers must not meet its rows.
        world.flip(pointers[5])
        await asyncio.to_thread(world.fill, "g2", "b")
        await asyncio.sleep(1)
        await load.stop()
        return load

    with start_service(tmp_path, world.url, free_port(), {"workers": 1, "deadline_ms": 5000}) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        load = asyncio.run(flip_on_and_on(service.address))
        seen, expected = load.answers, {g: expected_lists(world, g) for g in world.catalogues}
        assert load.failures == []
        assert {status for _, status, _ in seen} == {200}
        for path, _, answer in seen:
            user = int(path.split("/")[5])
            found = [(item["item_id"], item["score"]) for item in answer["items"]]
            assert answer["source"] in {"precomputed", "fallback"}, answer
            assert found == expected[answer["generation"]][user][:9], (path, answer)
            assert answer["model"] == f"model-{answer['generation'][1:]}"
        assert {"g1", "g5", "g6"} <= {answer["generation"] for _, _, answer in seen}
        assert len(seen) > 1000
        answer = service.get(f"/v1/models/{MODEL}/users/{users[0]}/recommendations").json()
        assert (answer["generation"], answer["source"]) == ("g5", "precomputed")


def test_a_generation_that_cannot_be_loaded_is_not_followed(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with start_service(tmp_path, own_world.url, free_port()) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        refuse_then_follow(own_world, tmp_path, service)


def refuse_then_follow(own_world: World, tmp_path: Path, service: RunningService) -> None:
    pointer = own_world.build("g2", "b", 2)
    (tmp_path / "g2" / "lookup" / "default.arrow").write_bytes(b"damaged")
    own_world.flip(pointer)
    wait_until(lambda: service.get("/health/ready").json()["trouble"])
    readiness = service.get("/health/ready").json()
    assert readiness["ready"]
    assert readiness["serving"] == "g1"
    assert "damaged at default.arrow" in readiness["trouble"][0]
    answer = service.get(f"/v1/models/{MODEL}/users/1/recommendations").json()
    assert (answer["generation"], answer["source"]) == ("g1", "precomputed")
    own_world.flip(own_world.build("g3", "b", 3))
    wait_until(lambda: service.get("/health/ready").json()["serving"] == "g3")
    assert service.get("/health/ready").json()["trouble"] == []
