"""All who wait at a listening socket are let in, in one turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import uvloop

from serving_lookup.connection import Listener
from serving_lookup.door import Door
from serving_lookup.http_head import HotHeads
from tests.serving_lookup.test_connection import HOT, Echo

WAITING = 200


def test_all_who_wait_are_let_in_and_answered() -> None:
    async def main() -> None:
        listener = Listener(Echo(), HotHeads("m"), 1000)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            address = bound.getsockname()
            door = Door(bound, listener, None)
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(address)) for _ in range(WAITING)]
                turns = 0
                while len(listener.connections) < WAITING:
                    await asyncio.sleep(0)
                    turns += 1
                    assert turns < WAITING
                for client in clients:
                    client.sendall(HOT % 7)
                reading = [asyncio.to_thread(client.recv, 4096) for client in clients]
                assert {answer[:12] for answer in await asyncio.gather(*reading)} == {b"HTTP/1.1 200"}
            door.close()
            door.close()  # no harm
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            for connection in list(listener.connections):
                connection.abandon()

    uvloop.run(main())
