"""One pipelined connection to one Redis or Valkey: commands of one event-loop turn leave in one write.

Replies come back in order, so a queue of callbacks is all the bookkeeping there is. The connection
mends itself; while it is down, commands fail at once instead of piling up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis
import structlog

from features.errors import StoreError
from serving_lookup.store import Store, accepted, pack, settle, unreachable
from serving_lookup.store_address import greetings, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serving_lookup.store_address import StoreAddress

log = structlog.get_logger()

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to connect; the last one repeats."""


class _Connection(asyncio.Protocol):
    """Socket, parser and the queue of those who wait for replies."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, Callable[[Any], None]]] = deque()
        self.closed = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by create_connection

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                waiting.popleft()[1](reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(f"not a Redis reply: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "connection closed by the store")

    def abort(self, why: str) -> None:
        self._fail(why)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_result(why)
        while self.waiting:
            self.waiting.popleft()[1](unreachable(why))


class ServerStore(Store):
    """One server, or the primary that sentinels name.

    Args:
        address: Where it is.
        timeout: Longest wait for one reply, in seconds; a connection that is slower is dropped.
        max_waiting: Most commands that wait for replies; more are refused at once.
    """

    def __init__(self, address: StoreAddress, *, timeout: float, max_waiting: int = 100_000) -> None:
        super().__init__(address)
        self.trouble = "not connected yet"
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._connection: _Connection | None = None
        self._outgoing: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._connected = asyncio.Event()

    def start(self) -> None:
        """Connect in the background, again and again if need be."""
        self._tasks = [self._loop.create_task(self._keep_connected()), self._loop.create_task(self._watch())]

    async def wait_connected(self, seconds: float) -> bool:
        """Wait for a connection, at most so long; whether there is one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), seconds)
        return self._connection is not None

    async def close(self) -> None:
        """Stop connecting and drop the connection."""
        for task in self._tasks:
            task.cancel()
        if self._connection is not None:
            self._connection.abort("closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Commands whose replies have not come."""
        return len(self._connection.waiting) if self._connection is not None else 0

    def ask(self, packed: bytes, answered: Callable[[Any], None]) -> None:
        """As of :class:`Store`."""
        self.ask_in_turn(packed, [answered])

    def ask_in_turn(self, packed: bytes, answered: Sequence[Callable[[Any], None]]) -> None:
        """As :meth:`ask`, with several commands that follow one another, and one callback for each."""
        connection = self._connection
        if connection is None:
            raise unreachable(self.trouble)
        if connection.closed.done():  # just now: whoever waited has been told, and nobody would tell the next
            raise unreachable(connection.closed.result())
        if len(connection.waiting) >= self._max_waiting:
            raise StoreError(
                "too many commands wait for the store", got=f"{self._max_waiting} without a reply"
            )
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        now = self._loop.time()
        connection.waiting.extend([(now, told) for told in answered])

    async def send_all(self, commands: Sequence[bytes]) -> list[Any]:
        """As of :class:`Store`: one write, one round trip."""
        replies: list[Any] = []
        last: asyncio.Future[Any] = self._loop.create_future()
        if commands:
            told: list[Callable[[Any], None]] = [replies.append] * (len(commands) - 1)
            told.append(partial(_close, replies, last))
            try:
                self.ask_in_turn(b"".join(commands), told)
            except StoreError as error:
                return [error] * len(commands)
            await last
        return replies

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if self._connection is not None:
            self._connection.write(data)

    async def _keep_connected(self) -> None:
        attempt = 0
        while True:
            try:
                connection = await self._connect()
            except (OSError, StoreError) as error:
                self.trouble = str(error) or type(error).__name__
            else:
                attempt, self.trouble, self._connection = 0, "", connection
                self._connected.set()
                log.info("store_connected", address=str(self.address))
                try:
                    self.trouble = await asyncio.shield(connection.closed)
                finally:
                    self._connection = None
                    self._outgoing.clear()
                    self._connected.clear()
                log.warning("store_lost", address=str(self.address), why=self.trouble)
            await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
            attempt += 1

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(self._timeout):
            if not self.address.sentinels:
                return await self._enter(self.address)
            return await self._enter_primary()

    async def _enter_primary(self) -> _Connection:
        """Where the sentinels say that the primary is, if it agrees.

        Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
        """
        address, trouble = self.address, "no sentinel was asked"
        for host, port in address.sentinels:
            try:
                sentinel = await self._enter(address.sentinel(host, port))
                try:
                    where = await self._say(
                        sentinel, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", address.service.encode()
                    )
                finally:
                    sentinel.abort("asked")
                if where is None:
                    trouble = f"sentinel {host}:{port} knows no service {address.service!r}"
                    continue
                connection = await self._enter(address.node(where[0].decode(), int(where[1])))
                role = (await self._say(connection, b"ROLE"))[0]
                if role == b"master":
                    return connection
                connection.abort("no primary")
                trouble = f"{where[0].decode()}:{int(where[1])} is {role.decode()}, not yet the primary"
            except (OSError, StoreError) as error:
                trouble = f"by sentinel {host}:{port}: {error}"
        raise unreachable(trouble)

    async def _enter(self, address: StoreAddress) -> _Connection:
        if address.path:
            _, connection = await self._loop.create_unix_connection(_Connection, address.path)
        else:
            _, connection = await self._loop.create_connection(
                _Connection, address.host, address.port, ssl=tls_context(address)
            )
        try:
            for command in greetings(address):
                await self._say(connection, *command)
        except BaseException:
            connection.abort("greeting failed")
            raise
        return connection

    async def _say(self, connection: _Connection, *command: bytes) -> Any:
        """One command on a connection that is not in use yet, and its reply."""
        future: asyncio.Future[Any] = self._loop.create_future()
        connection.waiting.append((self._loop.time(), partial(settle, future)))
        connection.write(pack(*command))
        return accepted(await future)

    async def _watch(self) -> None:
        """Drop a connection whose oldest command has waited too long: replies come in order, so all wait behind it."""
        while True:
            await asyncio.sleep(min(self._timeout / 4, 0.25))
            connection = self._connection
            if connection is None or not self._overdue(connection):
                continue
            oldest = connection.waiting[0]
            # Where the loop is behind, the reply may be here and nobody has looked: that is no fault of the store's.
            for _ in range(2):
                await asyncio.sleep(0)
            if self._overdue(connection) and connection.waiting[0] is oldest:
                connection.abort(f"no reply for {self._loop.time() - oldest[0]:.2f} s")

    def _overdue(self, connection: _Connection) -> bool:
        waiting = connection.waiting
        return bool(waiting) and self._loop.time() - waiting[0][0] > self._timeout


def _close(replies: list[Any], last: asyncio.Future[Any], reply: Any) -> None:
    """The last reply of many has come."""
    replies.append(reply)
    if not last.done():
        last.set_result(None)
