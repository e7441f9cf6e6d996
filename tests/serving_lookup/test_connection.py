"""HTTP/1.1 over real sockets: what a client may do, what it may not, and that neither costs more than it should."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from serving_lookup import connection as connection_module
from serving_lookup.connection import Connection, Listener
from serving_lookup.http_head import HotHeads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from serving_lookup.http_head import HotRequest
    from serving_lookup.problems import Problem

HOT = b"GET /v1/models/m/users/%d/recommendations HTTP/1.1\r\nhost: x\r\n\r\n"


class Echo:
    """Answers a plain request with its user, a turn of the loop later; anything else with its method, path and body."""

    def __init__(self) -> None:
        self.refusals: list[int] = []
        self.left = 0
        self.answer_early = False
        self.body = b""

    def hot(self, request: HotRequest, connection: Connection) -> None:
        body = self.body or request.user
        asyncio.get_running_loop().call_soon(connection.answer, 200, b"content-type: text/plain\r\n", body)

    def refused(self, problem: Problem) -> list[tuple[bytes, bytes]]:
        self.refusals.append(problem.status)
        return []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", not self.answer_early
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body, more = body + message["body"], message["more_body"]
        said = scope["method"].encode() + b" " + scope["raw_path"] + b" " + body
        headers = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})


class Running:
    """A listener on a real port."""

    def __init__(self, echo: Echo, listener: Listener, port: int) -> None:
        self.echo, self.listener, self.port = echo, listener, port

    async def talk(self, data: bytes, *, eof: bool = False) -> bytes:
        """Send, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if eof:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def running(most: int = 100) -> AsyncIterator[Running]:
    echo = Echo()
    listener = Listener(echo, HotHeads("m"), most)
    listener.date = b"Thu, 01 Jan 2026 00:00:00 GMT"
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    async with server:
        yield Running(echo, listener, server.sockets[0].getsockname()[1])
        for open_one in list(listener.connections):
            open_one.abandon()


def run(test: Callable[[Running], Any], **arguments: Any) -> None:
    async def main() -> None:
        async with running(**arguments) as it:
            await test(it)

    asyncio.run(main())


async def until(check: Callable[[], bool]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


def bodies(answers: bytes) -> list[bytes]:
    """Bodies of answers with a length, one after the other."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(rest[:length])
        answers = rest[length:]
    return found


def test_requests_on_one_connection_are_answered_in_order() -> None:
    post = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab"
    chunked = (
        b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n"
    )
    last = b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def test(it: Running) -> None:
        at_once = await it.talk(HOT % 1 + HOT % 2 + post + chunked + HOT % 3 + last)
        path = b"GET /v1/models/m/users/%d/recommendations "
        assert bodies(at_once) == [path % 1, path % 2, b"POST /p ab", b"POST /c xyz", path % 3, b"GET /end "]
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        got = b""
        for piece in (HOT % 7, post[:30], post[30:], HOT % 8, HOT % 9 + last):
            writer.write(piece)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                got += await asyncio.wait_for(reader.read(4096), 0.2 if piece == post[:30] else 10)
        got += await reader.read()
        writer.close()
        assert bodies(got) == [b"7", b"POST /p ab", b"8", path % 9, b"GET /end "]
        await until(lambda: not it.listener.connections)

    run(test)


def test_what_came_while_a_plain_request_is_answered_is_not_lost() -> None:
    async def test(it: Running) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        connection = await _accepted(it)
        hot = it.echo.hot
        begun = asyncio.Event()
        it.echo.hot = lambda *_: begun.set()  # type: ignore[method-assign]  # to answer when it suits the test
        writer.write(HOT % 1)
        await begun.wait()
        it.echo.hot = hot  # type: ignore[method-assign]
        writer.write(HOT % 2)
        await until(lambda: bool(connection._early))
        connection.answer(200, b"", b"1")
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2:
            answers += await asyncio.wait_for(reader.read(4096), 10)
        assert bodies(answers) == [b"1", b"2"]
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad\x00name: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000, 431),
        (b"GET /" + b"a" * 70_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
    ],
)
def test_what_is_no_request_is_told_so_and_ends_the_connection(sent: bytes, status: int) -> None:
    async def test(it: Running) -> None:
        answer = await it.talk(sent, eof=True)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-type: application/problem+json" in answer
        assert json.loads(bodies(answer)[0])["status"] == status
        assert it.echo.refusals == [status]

    run(test)


def test_kinds_of_answers() -> None:
    async def test(it: Running) -> None:
        head = await it.talk(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert b"content-length: 7" in head
        old = await it.talk(b"GET /old HTTP/1.0\r\n\r\n")
        assert old.endswith(b"GET /old ")
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"!")
        assert (await reader.readuntil(b"POST / !")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        asked_then_closed = await it.talk(HOT % 5, eof=True)
        assert bodies(asked_then_closed) == [b"5"]

    run(test)


def test_a_body_that_nobody_reads_does_not_eat_the_answer() -> None:
    """The answer must not be overtaken by the reset that unread bytes would cause."""

    async def test(it: Running) -> None:
        it.echo.answer_early = True
        length = 2_000_000
        answer = await it.talk(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length + b"x" * length, eof=True
        )
        assert bodies(answer) == [b"POST / "]

    run(test)


def test_a_client_that_leaves_in_the_middle_is_noticed() -> None:
    async def test(it: Running) -> None:
        sent = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"
        assert await it.talk(sent, eof=True) == b""
        await until(lambda: bool(it.echo.left))
        assert await it.talk(b"GET / HT", eof=True) == b""

    run(test)


def test_slow_clients_are_cut_off() -> None:
    async def test(it: Running) -> None:
        loop = asyncio.get_running_loop()
        for sent, phase_seconds, start in (
            (b"GET / HT", connection_module.HEAD_SECONDS, b"HTTP/1.1 408 "),
            (b"", connection_module.IDLE_SECONDS, b""),
            (
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
                connection_module.BODY_SECONDS,
                b"",
            ),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            connection = await _accepted(it)
            writer.write(sent)
            await until(lambda c=connection, s=sent: not s or c._phase is not connection_module.Phase.IDLE)  # type: ignore[misc]
            connection.overdue(loop.time() + phase_seconds - 1)
            assert it.listener.connections
            connection.overdue(loop.time() + phase_seconds + 1)
            with contextlib.suppress(ConnectionResetError):
                assert (await asyncio.wait_for(reader.read(), 10)).startswith(start)
            writer.close()
            await until(lambda: not it.listener.connections)

    run(test)


def test_a_client_that_never_reads_holds_little() -> None:
    async def test(it: Running) -> None:
        it.echo.body = b"x" * 10_000
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        connection = await _accepted(it)
        writer.transport.set_write_buffer_limits(1)
        with contextlib.suppress(TimeoutError):  # the server stops reading, so this cannot all be sent
            for user in range(20_000):
                writer.write(HOT % user)
                await asyncio.wait_for(writer.drain(), 0.5)
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 200_000
        assert len(connection._early) < 200_000
        writer.transport.abort()
        del reader

    run(test)


def test_too_many_connections_are_told_to_come_back() -> None:
    async def test(it: Running) -> None:
        open_ones = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(3)]
        refused = await it.talk(b"")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        for _, writer in open_ones:
            writer.write(HOT % 1)
        for reader, writer in open_ones:
            assert (await reader.readuntil(b"\r\n\r\n1")).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(test, most=3)


async def _accepted(it: Running) -> Connection:
    await until(lambda: bool(it.listener.connections))
    return next(iter(it.listener.connections))
