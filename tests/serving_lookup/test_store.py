"""Where the store is, a primary that sentinels name, followed when it changes, and commands on a connection that is lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from features.errors import SettingsError, StoreError
from serving_lookup.server_store import ServerStore
from serving_lookup.store import pack
from serving_lookup.store_address import StoreAddress, greetings
from tests.materialize.publish.conftest import Server
from tests.serving_lookup.published_world import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "shown", "entered"),
    [
        ("redis://h", "h:6379", [b"PING"]),
        ("redis://u:p%40ss@h:1/3", "h:1", [b"AUTH u p@ss", b"SELECT 3", b"PING"]),
        (
            "unix://:secret@/run/store.sock?db=2",
            "unix:/run/store.sock",
            [b"AUTH secret", b"SELECT 2", b"PING"],
        ),
        ("redis+sentinel://u:p@a:1,b/main?db=1", "main of a:1,b:26379", [b"AUTH u p", b"SELECT 1", b"PING"]),
        ("rediss+sentinel://[::1]:7/main", "main of ::1:7", [b"PING"]),
        ("redis+cluster://u:p@a:1,b?ssl_cert_reqs=none", "the cluster of a:1,b:6379", [b"AUTH u p", b"PING"]),
        ("rediss+cluster://[::1]", "the cluster of ::1:6379", [b"PING"]),
    ],
)
def test_addresses(url: str, shown: str, entered: list[bytes]) -> None:
    address = StoreAddress.parse(url)
    assert repr(address) == shown
    assert [b" ".join(command) for command in greetings(address)] == entered
    assert address.tls == url.startswith("rediss")


@pytest.mark.parametrize(
    "url", ["", "http://h", "redis://:secret@h:port", "redis+sentinel://:secret@a:1", "redis://:secret@h/x"]
)
def test_no_address_and_no_password_told(url: str) -> None:
    with pytest.raises(SettingsError, match=r"store\.url cannot be read") as caught:
        StoreAddress.parse(url)
    assert "secret" not in str(caught.value)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Server, Server, Server]]:
    """A primary, its replica, and a sentinel that watches them."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str, **config: str) -> Server:
            folder = tmp_path / name
            folder.mkdir()
            server = Server(folder, *arguments, **config)
            stack.callback(server.kill)
            return server

        primary = start("primary")
        replica = start("replica", replicaof=f"127.0.0.1 {primary.port}")
        file = tmp_path / "sentinel.conf"
        file.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        sentinel = start("sentinel", str(file), "--sentinel")
        with sentinel.client() as client, replica.client() as other:
            wait_until(lambda: len(client.sentinel_slaves("main")) == 1)
            wait_until(lambda: other.info("replication")["master_link_status"] == "up")
        yield primary, replica, sentinel


def test_the_primary_is_asked_of_the_sentinels_and_followed(watched: tuple[Server, Server, Server]) -> None:
    primary, replica, sentinel = watched
    with primary.client() as client, replica.client() as other:
        client.set("where", "primary")
        wait_until(lambda: other.get("where") == b"primary")

    async def main() -> None:
        unknown = ServerStore(
            StoreAddress.parse(f"redis+sentinel://127.0.0.1:{sentinel.port}/other"), timeout=5
        )
        unknown.start()
        assert not await unknown.wait_connected(0.5)
        assert "knows no service 'other'" in unknown.trouble
        await unknown.close()
        # The first sentinel is not there, so the second one is asked.
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"
        store = ServerStore(StoreAddress.parse(url), timeout=5)
        store.start()
        assert await store.wait_connected(10)
        assert await store.call(b"GET", b"where") == b"primary"
        primary.kill()
        with replica.client() as client:
            await asyncio.to_thread(wait_until, lambda: client.info("replication")["role"] == "master")
            client.set("where", "replica")
        async with asyncio.timeout(30):
            answer = b""
            while answer != b"replica":
                await store.wait_connected(1)
                with contextlib.suppress(StoreError):
                    answer = await store.call(b"GET", b"where")
        await store.close()

    asyncio.run(main())


def test_no_command_waits_for_a_connection_that_is_lost(tmp_path: Path) -> None:
    """Whoever asks between the loss and the moment it is known would wait for ever, the poll of the pointer too."""
    server = Server(tmp_path)

    async def ask_in_every_turn() -> None:
        store = ServerStore(StoreAddress.parse(f"redis://127.0.0.1:{server.port}"), timeout=30)
        store.start()
        assert await store.wait_connected(10)
        asked, replies = 0, list[object]()
        server.kill()
        with contextlib.suppress(StoreError):
            while True:
                store.ask(pack(b"PING"), replies.append)
                asked += 1
                await asyncio.sleep(0)
        assert len(replies) == asked > 0
        await store.close()

    try:
        asyncio.run(asyncio.wait_for(ask_in_every_turn(), 20))
    finally:
        server.kill()
