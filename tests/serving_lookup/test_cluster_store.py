"""Look-ups on a real cluster: its slots, one that moves, a node that dies."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from materialize.publish.feast_format import entity_key
from serving_lookup.cluster_store import SLOTS, slot_of
from tests.materialize.publish.conftest import Server
from tests.serving_lookup.published_world import (
    MODEL,
    PRECOMPUTED,
    PROJECT,
    K,
    Tables,
    World,
    start_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.serving_lookup.published_world import RunningService


@pytest.mark.parametrize("key", [b"", b"123456789", b"a{user}b{c}", b"{}x", b"x{", b"x}{y}", b"{a"])
def test_slots_are_those_of_the_specification(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)
    assert slot_of(b"123456789") == 0x31C3


class ClusterWorld(World):
    """A world in a cluster."""

    ports: list[int]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports[:2])

    @cached_property
    def client(self) -> Any:
        return RedisCluster(host="127.0.0.1", port=self.ports[0])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Server]]:
    """Three primaries, of which each answers for its slots though another is away."""
    config = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no", "cluster_node_timeout": "1000"}
    with contextlib.ExitStack() as stack:
        servers = []
        for n in range(3):
            server = Server(tmp_path / f"node{n}", **config)
            stack.callback(server.kill)
            servers.append(server)
            ask(server, "SET-CONFIG-EPOCH", n + 1)
            ask(server, "ADDSLOTSRANGE", SLOTS * n // 3, SLOTS * (n + 1) // 3 - 1)
            ask(server, "MEET", "127.0.0.1", servers[0].port)
        wait_until(lambda: all(knows_all(server) for server in servers))
        yield servers


def ask(server: Server, *command: object) -> Any:
    with redis.Redis(port=server.port) as client:
        return client.execute_command("CLUSTER", *command)


def knows_all(server: Server) -> bool:
    info = ask(server, "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info


def lists_of(service: RunningService, users: list[Any]) -> dict[Any, tuple[str, list[int]]]:
    """Source and items by user, of one batch."""
    url = f"{service.address}/v1/models/{MODEL}/recommendations:batch"
    answers = httpx.post(url, json={"users": users, "k": 5}, timeout=30).json()["users"]
    return {
        a["user_id"]: (a["answer"]["source"], [i["item_id"] for i in a["answer"]["items"]]) for a in answers
    }


def test_look_ups_in_a_cluster(nodes: list[Server], tmp_path: Path, free_port: Callable[[], int]) -> None:
    world = ClusterWorld(None, tmp_path, Tables("int64"))  # it knows its ports instead
    world.ports = [node.port for node in nodes]
    world.load_features()
    world.flip(world.build("g1", "a", 1))
    users = world.tables.user_ids[:PRECOMPUTED]
    best = dict(zip(users, world.expected("g1").item_ids[:, :5].tolist(), strict=False))
    with start_service(tmp_path, world.url, free_port(), {"deadline_ms": 5000}) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        assert lists_of(service, users) == {user: ("precomputed", best[user]) for user in users}
        missing = world.tables.user_ids[PRECOMPUTED]
        for _ in range(2):  # scored, then remembered
            answer = service.get(f"/v1/models/{MODEL}/users/{missing}/recommendations?k={K}").json()
            assert answer["source"] == "fallback"

        user = users[7]
        number = slot_of(entity_key(user, PROJECT))
        source = nodes[next(n for n in range(3) if number < SLOTS * (n + 1) // 3)]
        target = nodes[(nodes.index(source) + 1) % 3]
        ask(target, "SETSLOT", number, "IMPORTING", ask(source, "MYID").decode())
        ask(source, "SETSLOT", number, "MIGRATING", ask(target, "MYID").decode())
        with redis.Redis(port=source.port) as client:
            keys = ask(source, "GETKEYSINSLOT", number, 1000)
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        path = f"/v1/models/{MODEL}/users/{user}/recommendations?k=5"
        assert service.get(path).json()["source"] == "precomputed"  # by ASK
        for node in (target, source):
            ask(node, "SETSLOT", number, "NODE", ask(target, "MYID").decode())
        assert service.get(path).json()["source"] == "precomputed"  # by MOVED
        assert lists_of(service, users) == {user: ("precomputed", best[user]) for user in users}

        lost = next(n for n in nodes if n not in {source, target})
        lost.kill()
        wait_until(lambda: service.get("/health/ready").status_code == 503)
        found = lists_of(service, users)
        away = {u for u in users if SLOTS * nodes.index(lost) // 3 <= slot_of(entity_key(u, PROJECT)) < SLOTS * (nodes.index(lost) + 1) // 3}  # fmt: skip
        away.discard(user)
        assert away
        assert {u for u in users if found[u][0] == "default"} == away
        assert all(found[u] == ("precomputed", best[u]) for u in users if u not in away)
        lost.start()
        wait_until(lambda: service.get("/health/ready").status_code == 200)
    world.client.close()
