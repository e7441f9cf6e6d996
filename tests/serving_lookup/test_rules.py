"""Serving rules changed in the store of a running service: stock, lists, caps, what users have seen, arms."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from features.errors import SettingsError
from materialize.publish.live_pointer import pointer_key
from materialize.publish.serving_rules import Arm, ServingRules, rules_key, seen_key
from serving_lookup.arms import choose
from tests.serving_lookup.published_world import (
    CATEGORIES,
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.serving_lookup.published_world import RunningService, World

VERSIONS = itertools.count(1)
CHALLENGER = "challenger"


@pytest.fixture(scope="module")
def ruled(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[tuple[World, RunningService]]:
    """A world and its service, without rules; each test ends as it began."""
    folder = tmp_path_factory.mktemp("ruled")
    settings = {"workers": 1, "deadline_ms": 5000, "seen_days": 30}
    with (
        live_world(folder, Tables("int64")) as world,
        start_service(folder, world.url, free_port(), settings) as service,
    ):
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        yield world, service


def forget(world: World, service: RunningService) -> None:
    """End the rules, and wait until they have ended."""
    user, best = world.tables.user_ids[0], published(world)
    world.client.delete(rules_key(PROJECT, MODEL))
    wait_until(lambda: items_of(ask(service, user, f"k={K}")) == best and "arm" not in ask(service, user))


def announce(world: World, rules: bytes) -> None:
    world.client.hset(
        rules_key(PROJECT, MODEL).decode(), mapping={"rules": rules, "version": str(next(VERSIONS))}
    )


def ask(service: RunningService, user: Any, query: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = service.get(f"/v1/models/{MODEL}/users/{user}/recommendations?{query}").json()
    return answer


def items_of(answer: dict[str, Any]) -> list[Any]:
    return [item["item_id"] for item in answer["items"]]


def published(world: World, index: int = 0) -> list[int]:
    ids: list[int] = world.expected("g1").item_ids[index].tolist()
    return ids


def test_lists_of_items_are_followed_without_a_restart(ruled: tuple[World, RunningService]) -> None:
    world, service = ruled
    user, best = world.tables.user_ids[0], published(world)
    rules = ServingRules(unavailable=(best[0], str(best[1])), deny=(best[3],))
    announce(world, rules.encode())
    left = [item for item in best if item not in {best[0], best[1], best[3]}]
    wait_until(lambda: items_of(ask(service, user, "k=4")) == left[:4])
    everyone = {"users": world.tables.user_ids[: PRECOMPUTED + 5], "k": K}
    url = f"{service.address}/v1/models/{MODEL}/recommendations:batch"
    for entry in httpx.post(url, json=everyone, timeout=30).json()["users"]:
        assert not {best[0], best[1], best[3]} & set(items_of(entry["answer"]))
    answer = ask(service, user, f"k={K}")
    assert items_of(answer) == left
    assert answer["exhausted"]
    assert service.metric('prescore_events_total{event="exhausted"}') > 0
    announce(world, ServingRules(allow=tuple(best[5:9])).encode())
    wait_until(lambda: items_of(ask(service, user, "k=3")) == best[5:8])
    assert "exhausted" not in ask(service, user, "k=3")
    # What cannot be followed changes nothing, and readiness says so.
    announce(world, b'{"allow": 3}')
    wait_until(lambda: "serving rules cannot be read" in str(service.get("/health/ready").json()["trouble"]))
    assert items_of(ask(service, user, "k=3")) == best[5:8]
    forget(world, service)
    assert service.get("/health/ready").json()["trouble"] == []


def test_plain_hits_follow_the_rules_and_other_rules_make_another_tag(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """As an application asks whose connections stay open and whose headers are few: the short way of a hit."""
    world, best = own_world, published(own_world)
    path = f"/v1/models/{MODEL}/users/{world.tables.user_ids[0]}/recommendations?k=2"

    def plainly(service: RunningService) -> tuple[str, list[int]]:
        with socket.create_connection(("127.0.0.1", int(service.address.rsplit(":", 1)[1]))) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.headers["etag"], items_of(json.loads(answer.read()))

    with start_service(tmp_path, world.url, free_port(), {"parity_share": 0}) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        assert plainly(service) == ('W/"g1"', best[:2])
        tags = []
        for hidden in (best[0], best[1]):
            announce(world, ServingRules(unavailable=(hidden,)).encode())
            left = [item for item in best if item != hidden][:2]
            wait_until(lambda left=left: plainly(service)[1] == left)
            tags.append(plainly(service)[0])
        assert len({*tags, 'W/"g1"'}) == 3


def test_caps_and_lists_of_one_request(ruled: tuple[World, RunningService]) -> None:
    world, service = ruled
    user, best = world.tables.user_ids[0], published(world)
    group = {
        item: CATEGORIES[world.tables.item_ids.index(item) % len(CATEGORIES)]
        for item in world.tables.item_ids
    }
    places = {
        item: sum(group[other] == group[item] for other in best[:place]) for place, item in enumerate(best)
    }
    capped = [item for item in best if places[item] < 2]
    answer = ask(service, user, "k=10&at_most=category:2&fields=title,category")
    assert items_of(answer) == capped[:10]
    assert [item["groups"] for item in answer["items"]] == [{"category": group[item]} for item in capped[:10]]
    assert items_of(ask(service, user, f"k=3&only={best[7]},{best[2]},{best[40]}")) == [
        best[2],
        best[7],
        best[40],
    ]
    announce(world, ServingRules(at_most={"category": 1}).encode())
    once = [item for item in best if places[item] == 0]
    wait_until(lambda: items_of(ask(service, user, "k=5")) == once[:5])
    assert items_of(ask(service, user, "k=10&at_most=category:2")) == capped[:10]
    for query in ("at_most=brand:2", "at_most=category", "at_most=category:0", "fields=brand", "only=x"):
        assert service.get(f"/v1/models/{MODEL}/users/{user}/recommendations?{query}").status_code == 400, (
            query
        )
    forget(world, service)


def test_seen_items_are_left_out_until_the_next_generation_knows(ruled: tuple[World, RunningService]) -> None:
    world, service = ruled
    for index in (0, PRECOMPUTED + 2):  # a hit and a miss
        user, best = world.tables.user_ids[index], published(world, index)
        path = f"{service.address}/v1/models/{MODEL}/users/{user}/seen"
        answer = httpx.post(path, json={"item_ids": [best[0], str(best[2])]})
        assert answer.json() == {"remembered": 2}
        assert items_of(ask(service, user, "k=3")) == [best[1], best[3], best[4]]
        assert "etag" not in service.get(f"/v1/models/{MODEL}/users/{user}/recommendations").headers
        # An application may write the set itself; what it saw before the cut-off is in the features.
        world.client.zadd(seen_key(PROJECT, user).decode(), {str(best[1]): 1.0, str(best[3]): 4e9})
        assert items_of(ask(service, user, "k=3")) == [best[1], best[4], best[5]]
        assert 0 < int(world.client.execute_command("TTL", seen_key(PROJECT, user))) <= 30 * 86400  # type: ignore[no-untyped-call]
    for index in (0, PRECOMPUTED + 2):
        world.client.delete(seen_key(PROJECT, world.tables.user_ids[index]))
    wrong: list[dict[str, list[str]]] = [{"item_ids": []}, {"item_ids": ["x"]}, {}]
    for body in wrong:
        assert httpx.post(path, json=body).status_code in {400, 422}


def test_arms_share_users_by_weight_and_stick() -> None:
    rules = ServingRules(
        arms=(Arm(model="a", weight=70), Arm(model="b", weight=20), Arm(model="c", weight=10))
    )
    users = range(20_000)
    before = [choose(rules, user).model for user in users]
    shares = {model: count / len(users) for model, count in Counter(before).items()}
    assert shares == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1}, abs=0.02)
    heavier = ServingRules(arms=(*rules.arms[:2], Arm(model="c", weight=60)))
    after = [choose(heavier, user).model for user in users]
    # Whoever moves, moves to the arm that grew.
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {"c"}
    other = ServingRules(arms=rules.arms, experiment="another")
    assert [choose(other, user).model for user in users] != before
    for wrong in (
        (Arm(model="a", weight=-1),),
        (Arm(model="a", weight=0),),
        (Arm(model="a", weight=1), Arm(model="a", weight=2)),
        (Arm(model="a b", weight=1),),
    ):
        with pytest.raises(SettingsError):
            ServingRules(arms=wrong).check()


def test_an_experiment_begins_and_ends_without_a_restart(ruled: tuple[World, RunningService]) -> None:
    world, service = ruled
    users = world.tables.user_ids[:60]
    base = {user: items_of(ask(service, user, "k=5")) for user in users}
    rules = ServingRules(
        arms=(Arm(model=MODEL, weight=1), Arm(model=CHALLENGER, weight=1, absent="base")), experiment="spring"
    )
    announce(world, rules.encode())
    arm_of = {user: choose(rules, user).model for user in users}
    # The challenger is not there yet: its users keep the base model's lists.
    wait_until(lambda: "arm" in ask(service, users[0]))
    for user in users:
        answer = ask(service, user, "k=5")
        assert (answer["arm"], answer["generation"], items_of(answer)) == (arm_of[user], "g1", base[user])
    theirs = [user for user in users if arm_of[user] == CHALLENGER]
    pointer = world.build("c1", "a", 2, model=CHALLENGER, only=theirs[1:])
    world.flip(pointer)
    wait_until(lambda: ask(service, theirs[1])["generation"] == "c1")
    top = world.expected("c1")
    for index, user in enumerate(users):
        answer = ask(service, user, "k=5")
        stored = user in theirs[1:]
        assert (answer["arm"], answer["generation"]) == (arm_of[user], "c1" if stored else "g1")
        assert answer["source"] == "precomputed"
        assert items_of(answer) == (top.item_ids[index, :5].tolist() if stored else base[user])
    # Pairs are scored and explained by the model whose list the user gets.
    for user, generation in (
        (theirs[1], "c1"),
        (theirs[0], "g1"),
        (next(iter(set(users) - {*theirs})), "g1"),
    ):
        item, score = ask(service, user, "k=1")["items"][0].values()
        for path in (f"items/{item}/score", f"explain?item={item}"):
            pair = service.get(f"/v1/models/{MODEL}/users/{user}/{path}").json()
            assert (pair["arm"], pair["generation"]) == (arm_of[user], generation)
            assert pair["score"] == pytest.approx(score, abs=1e-5)
    lists = 'prescore_arm_lists_total{arm="%s",source="precomputed"}'
    assert service.metric(lists % CHALLENGER) >= len(theirs)
    assert service.metric(lists % MODEL) >= len(users) - len(theirs)
    scored = ServingRules(arms=(Arm(model=CHALLENGER, weight=1),))
    announce(world, scored.encode())
    wait_until(lambda: ask(service, theirs[0])["source"] == "fallback")
    assert ask(service, theirs[0])["generation"] == "c1"
    forget(world, service)
    world.client.delete(pointer_key(PROJECT, CHALLENGER))
    assert items_of(ask(service, theirs[1], "k=5")) == base[theirs[1]]
