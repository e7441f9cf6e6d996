"""A real Valkey, read back through redis-py and Feast's own codec."""

from __future__ import annotations

import datetime as dt
import socket
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from features.errors import SchemaMismatchError, SettingsError, StoreError
from materialize.publish.feast_format import (
    decode_timestamp,
    decode_value,
    entity_key,
    field_hash,
    timestamp_field,
)
from materialize.publish.published_lists import lists_table
from materialize.publish.redis_loader import LoadResult, RedisLoader

if TYPE_CHECKING:
    from pathlib import Path

    from tests.materialize.publish.conftest import Server, Start
    from tests.store_proxy import StoreProxy

NOW = dt.datetime(2017, 12, 4, 1, 2, 3, 456789, tzinfo=dt.UTC)


def slot(users: list[int] | list[str], generation: str = "g1", k: int = 5) -> pa.Table:
    n = len(users)
    items = pa.array(np.arange(n * k))
    return lists_table(
        pa.array(users), items, np.linspace(1, 0, n * k).astype(np.float32), np.full(n, k), generation
    )


def stored(client: Any, user: int | str, view: str = "m_a") -> dict[str, object]:
    fields = {name: field_hash(view, name) for name in ("item_ids", "scores", "generation")}
    values = client.hmget(entity_key(user, "shop"), list(fields.values()))
    return {name: decode_value(value) for name, value in zip(fields, values, strict=True)}


@pytest.mark.parametrize("users", [list(range(3000)), [f"u{n}/ü" for n in range(3000)]])
def test_every_user_is_stored(client: Any, store_url: str, users: list[int] | list[str]) -> None:
    table = slot(users)
    with RedisLoader(store_url, "shop") as loader:
        result = loader.load("m_a", table, NOW)
        assert (result.rows_sent, result.rows_accepted) == (3000, 3000)
        assert loader.count_generation("m_a", table["user_id"], "g1") == 3000
        assert loader.count_generation("m_a", table["user_id"], "g2") == 0
    for row in (0, 1023, 1024, 2999):
        expected = table.slice(row, 1).drop(["user_id"]).to_pylist()[0]
        assert stored(client, users[row]) == expected
    raw = client.hget(entity_key(users[7], "shop"), timestamp_field("m_a"))
    assert isinstance(raw, bytes)
    assert decode_timestamp(raw) == round(NOW.timestamp() * 1e6)


def test_loading_again_replaces(client: Any, store_url: str) -> None:
    with RedisLoader(store_url, "shop", connections=1) as loader:
        loader.load("m_a", slot([1, 2], "g1"), NOW)
        loader.load("m_a", slot([1, 2], "g2"), NOW - dt.timedelta(days=1))
    assert stored(client, 1)["generation"] == "g2"


def test_an_empty_table_is_loaded(store_url: str) -> None:
    with RedisLoader(store_url, "shop") as loader:
        assert loader.load("m_a", slot([1]).slice(1), NOW) == LoadResult(0, 0, 0)


def test_rows_larger_than_every_buffer(client: Any, store_url: str) -> None:
    vectors = pa.array([[float(n)] * 50_000 for n in range(40)], pa.list_(pa.float32()))
    with RedisLoader(store_url, "shop", connections=3) as loader:
        loader.load("v", pa.table({"user_id": range(40), "vector": vectors}), NOW)
    value = client.hget(entity_key(39, "shop"), field_hash("v", "vector"))
    assert isinstance(value, bytes)
    assert decode_value(value) == [39.0] * 50_000


def test_a_view_is_removed_and_others_stay(client: Any, store_url: str) -> None:
    with RedisLoader(store_url, "shop") as loader:
        loader.load("m_a", slot([1, 2, 3]), NOW)
        loader.load("m_b", slot([2]), NOW)
        assert loader.remove_view("m_a", pa.array([1, 2, 9])).rows_accepted == 3
    assert client.exists(entity_key(1, "shop")) == 0
    assert set(client.hkeys(entity_key(2, "shop"))) == {
        timestamp_field("m_b"),
        *(field_hash("m_b", name) for name in ("item_ids", "scores", "generation")),
    }
    assert stored(client, 3)["generation"] == "g1"


@pytest.mark.parametrize("users", [[1, -2, 2**62], ["a", "ü", "*[x]?"]])
def test_stored_ids_are_those_of_the_view_and_project(
    client: Any, store_url: str, users: list[int] | list[str]
) -> None:
    with RedisLoader(store_url, "shop") as loader, RedisLoader(store_url, "workshop") as other:
        loader.load("m_a", slot(users), NOW)
        loader.load("m_b", slot(users[:1]), NOW)
        other.load("m_a", slot(["elsewhere"]), NOW)
        client.set(b"unrelated", b"x")
        assert sorted(loader.stored_ids("m_a").to_pylist()) == sorted(users)
        assert loader.stored_ids("m_b").to_pylist() == users[:1]
        assert loader.stored_ids("m_c").to_pylist() == []


def test_a_unix_socket_and_long_listpacks(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "s.sock"
    server = start(unixsocket=str(path))
    with RedisLoader(f"unix://{path}", "shop") as loader:
        loader.load("m_a", slot([1], k=100), NOW)
    with server.client() as client:
        assert client.config_get("hash-max-listpack-value")["hash-max-listpack-value"] == "4096"
        assert client.object("ENCODING", entity_key(1, "shop")) == b"listpack"


def test_an_acl_user_that_may_not_configure(client: Any, store_url: str) -> None:
    client.execute_command("ACL SETUSER", "loader", "on", ">p@ss/word", "~*", "+@all", "-@admin", "-config")
    url = store_url.replace("redis://", "redis://loader:p%40ss%2Fword@")
    with RedisLoader(url, "shop") as loader:
        loader.load("m_a", slot([1]), NOW)
    assert stored(client, 1)["generation"] == "g1"


def test_a_user_without_the_right_to_write(client: Any, store_url: str) -> None:
    client.execute_command("ACL SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection")
    with (
        RedisLoader(store_url.replace("redis://", "redis://reader:pw@"), "shop") as loader,
        pytest.raises(StoreError, match="forbids a command"),
    ):
        loader.load("m_a", slot([1]), NOW)


@pytest.mark.parametrize(
    ("user", "cause"),
    [
        ("nobody:wrong-secret", "refused user or password"),
        (":wrong-secret", "has no password, but one was given"),
    ],
)
def test_a_wrong_password_is_named_and_not_told(client: Any, store_url: str, user: str, cause: str) -> None:
    client.execute_command("ACL SETUSER", "nobody", "on", ">right")
    with pytest.raises(StoreError, match=cause) as caught:
        RedisLoader(store_url.replace("redis://", f"redis://{user}@"), "shop")
    assert "wrong-secret" not in str(caught.value)


def test_a_missing_password(start: Start) -> None:
    server = start(requirepass="pw")
    with pytest.raises(StoreError, match="wants a password"):
        RedisLoader(server.url, "shop")


def test_a_server_that_is_out_of_memory(client: Any, store_url: str) -> None:
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used + 3_000_000)
    try:
        with RedisLoader(store_url, "shop") as loader, pytest.raises(StoreError, match="out of memory"):
            loader.load("m_a", slot(list(range(100_000)), k=50), NOW)
    finally:
        client.config_set("maxmemory", 0)
    with RedisLoader(store_url, "shop") as loader:
        loader.load("m_a", slot([1]), NOW)


def test_a_read_only_replica(start: Start, shared_server: Server) -> None:
    replica = start(replicaof=f"127.0.0.1 {shared_server.port}")
    with RedisLoader(replica.url, "shop") as loader, pytest.raises(StoreError, match="read-only replica"):
        loader.load("m_a", slot([1]), NOW)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match="refused the connection"):
        RedisLoader(f"redis://127.0.0.1:{port}", "shop")


def test_a_stalled_network_is_noticed(proxied: StoreProxy) -> None:
    with RedisLoader(f"redis://127.0.0.1:{proxied.port}", "shop", timeout=0.5) as loader:
        loader.load("m_a", slot([1]), NOW)
        proxied.silent = True
        began = time.monotonic()
        with pytest.raises(StoreError, match="stopped answering"):
            loader.load("m_a", slot(list(range(50_000)), k=50), NOW)
        assert time.monotonic() - began < 3
        proxied.silent = False
        assert loader.load("m_a", slot([1]), NOW).rows_accepted == 1


@pytest.mark.parametrize("welcome", range(3))
def test_a_server_that_goes_away_while_we_connect(proxied: StoreProxy, welcome: int) -> None:
    proxied.welcome = welcome
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{proxied.port}"):
        RedisLoader(f"redis://127.0.0.1:{proxied.port}", "shop", connections=2)


def test_a_broken_connection_is_an_error_and_the_next_load_works(client: Any, store_url: str) -> None:
    with RedisLoader(store_url, "shop") as loader:
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StoreError):
            loader.load("m_a", slot([1]), NOW)
        assert loader.load("m_a", slot([1]), NOW).rows_accepted == 1


@pytest.mark.parametrize("url", ["http://x", "redis+sentinel://h:1", "redis+cluster://,", "redis://h:port"])
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(SettingsError, match="cannot be understood"):
        RedisLoader(url, "shop")


def test_a_timestamp_without_zone_is_refused(store_url: str) -> None:
    with RedisLoader(store_url, "shop") as loader, pytest.raises(SchemaMismatchError, match="no zone"):
        loader.load("m_a", slot([1]), NOW.replace(tzinfo=None))
