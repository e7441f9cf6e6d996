"""One pipelined connection to Redis or Valkey: commands of one event-loop turn leave in one write.

Replies come back in order, so a queue of callbacks is all the bookkeeping there is. The connection
mends itself; while it is down, commands fail at once instead of piling up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import structlog

from features.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = structlog.get_logger()

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to connect; the last one repeats."""

_ENCODINGS = {"redis": False, "rediss": True}


@dataclass(frozen=True)
class StoreAddress:
    """Where the store is and how to enter it; ``repr`` hides the password."""

    host: str
    port: int
    path: str
    tls: bool
    verify: bool
    username: str
    password: str
    database: int

    def __repr__(self) -> str:
        """Address without credentials, fit for logs."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> StoreAddress:
        """Read ``redis://[user:password@]host:port[/db]``, ``rediss://…`` (TLS) or ``unix://…path[?db=]``.

        ``?ssl_cert_reqs=none`` turns certificate checks off, as in redis-py.

        Raises:
            SettingsError: If it is none of these; the message does not repeat the URL, which may hold a password.
        """
        try:
            parts = urlsplit(url)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            if parts.scheme not in {*_ENCODINGS, "unix"}:
                raise ValueError(f"scheme {parts.scheme!r}")  # noqa: TRY301 - one message for all faults
            unix = parts.scheme == "unix"
            database = query.get("db", "" if unix else parts.path.strip("/"))
            return cls(
                host="" if unix else parts.hostname or "127.0.0.1",
                port=0 if unix else parts.port or 6379,
                path=unquote(parts.path) if unix else "",
                tls=_ENCODINGS.get(parts.scheme, False),
                verify=query.get("ssl_cert_reqs", "required") != "none",
                username=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=int(database or 0),
            )
        except ValueError as error:
            raise SettingsError(
                "store.url cannot be read",
                expected="redis://[user:password@]host:port[/db], rediss://… or unix://…",
                got=str(error).split(" for ", maxsplit=1)[0],
            ) from error


def pack(*arguments: bytes) -> bytes:
    """A command as RESP bytes: an array of bulk strings.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments])


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
            self.waiting.popleft()[1](_unreachable(why))


class Store:
    """The store as one worker process sees it. Use within one event loop.

    Args:
        address: Where it is.
        timeout: Longest wait for one reply, in seconds; a connection that is slower is dropped.
        max_waiting: Most commands that wait for replies; more are refused at once.
    """

    def __init__(self, address: StoreAddress, *, timeout: float, max_waiting: int = 10_000) -> None:
        self.address = address
        self.trouble = "not connected yet"
        """Why the store cannot be reached; empty while it can."""
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

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """As :meth:`ask`; the reply is the future's result, a broken connection its exception."""
        future = self._loop.create_future()
        self.ask(packed, partial(_settle, future))
        return future

    def ask(self, packed: bytes, answered: Callable[[Any], None]) -> None:
        """Send one packed command with the others of this turn of the loop.

        Args:
            packed: See :func:`pack`.
            answered: Gets the reply, once. An error reply is of type ``hiredis.ReplyError``; a connection that broke
                or a reply that took too long, a :class:`StoreError`. It must not raise.

        Raises:
            StoreError: At once if there is no connection or too much is waiting; nothing will be told then.
        """
        connection = self._connection
        if connection is None:
            raise _unreachable(self.trouble)
        if len(connection.waiting) >= self._max_waiting:
            raise StoreError(
                "too many commands wait for the store", got=f"{self._max_waiting} without a reply"
            )
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        connection.waiting.append((self._loop.time(), answered))

    async def call(self, *arguments: bytes) -> Any:
        """Send a command and return its reply.

        Raises:
            StoreError: If the store is unreachable, slow, or refuses the command.
        """
        return accepted(await self.send(pack(*arguments)))

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
        address = self.address
        async with asyncio.timeout(self._timeout):
            if address.path:
                _, connection = await self._loop.create_unix_connection(_Connection, address.path)
            else:
                _, connection = await self._loop.create_connection(
                    _Connection, address.host, address.port, ssl=_tls(address)
                )
            try:
                for command in _greetings(address):
                    future: asyncio.Future[Any] = self._loop.create_future()
                    connection.waiting.append((self._loop.time(), partial(_settle, future)))
                    connection.write(pack(*command))
                    accepted(await future)
            except BaseException:
                connection.abort("greeting failed")
                raise
        return connection

    async def _watch(self) -> None:
        """Drop a connection whose oldest command has waited too long: replies come in order, so all wait behind it."""
        while True:
            await asyncio.sleep(min(self._timeout / 4, 0.25))
            connection = self._connection
            if connection is not None and connection.waiting:
                waited = self._loop.time() - connection.waiting[0][0]
                if waited > self._timeout:
                    connection.abort(f"no reply for {waited:.2f} s")


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if not future.done():
        if isinstance(reply, StoreError):
            future.set_exception(reply)
        else:
            future.set_result(reply)


def accepted(reply: Any) -> Any:
    """A reply that is no error.

    Raises:
        StoreError: If the store refused the command.
    """
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError("the store refused a command", got=str(reply))
    return reply


def _unreachable(why: str) -> StoreError:
    return StoreError("the store cannot be reached", got=why)


def _tls(address: StoreAddress) -> ssl.SSLContext | None:
    if not address.tls:
        return None
    context = ssl.create_default_context()
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _greetings(address: StoreAddress) -> Sequence[tuple[bytes, ...]]:
    commands: list[tuple[bytes, ...]] = []
    if address.password:
        user = (address.username.encode(),) if address.username else ()
        commands.append((b"AUTH", *user, address.password.encode()))
    if address.database:
        commands.append((b"SELECT", b"%d" % address.database))
    return [*commands, (b"PING",)]
