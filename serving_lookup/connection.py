"""One client's connection: HTTP/1.1 in, answers out; never more than one request at a time, nothing unbounded.

A plain request for recommendations is read at a glance and answered without ASGI (:mod:`serving_lookup.http_head`);
everything else goes through h11, a strict parser, to the ASGI application.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

import h11

from serving_lookup.exchange import MOST_BUFFERED, Exchange
from serving_lookup.problems import TITLES, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from serving_lookup.http_head import HotHeads, HotRequest

    Message = MutableMapping[str, Any]

MOST_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers together."""

HEAD_SECONDS: Final = 10.0
"""A client that takes longer to send a head, or to take an answer, is cut off."""

BODY_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 2.0
MOST_LINGERING_BYTES: Final = 4 * 1024 * 1024


class Application(Protocol):
    """What answers requests."""

    def hot(self, request: HotRequest, connection: Connection) -> None:
        """Answer with :meth:`Connection.answer`, now or later, once."""

    def refused(self, problem: Problem) -> list[tuple[bytes, bytes]]:
        """Count a request that could not be read; headers to add to its answer."""

    def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> Awaitable[None]:
        """Answer a request of ASGI 3."""


class Listener:
    """What the connections of one listening address share.

    Args:
        application: Answers.
        heads: Recognises plain requests; ``None``: there are none here.
        most: Connections at once; more are told to come back.
        secure: Whether TLS lies beneath.
    """

    def __init__(
        self, application: Application, heads: HotHeads | None, most: int, *, secure: bool = False
    ) -> None:
        self.application, self.heads, self.most = application, heads, most
        self.scheme = "https" if secure else "http"
        self.connections: set[Connection] = set()
        self.date = b""
        self.stopping = False

    def __call__(self) -> Connection:
        """A new connection."""
        return Connection(self)


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    READING_HEAD = auto()
    ANSWERING = auto()
    LINGERING = auto()
    """The answer is out and ends the connection; what the client still sends is thrown away for a moment, or the
    reset would overtake the answer."""


class Connection(asyncio.Protocol):
    """See the module. Made by a :class:`Listener` for each client."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.IDLE
        self._since = self._loop.time()
        self._early = b""
        """What came while a plain request was being answered."""
        self._h11: h11.Connection | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._thrown_away = 0
        self._ended = False
        """Whether the client has closed its side."""
        self._head: Message = {}
        self._may_write = asyncio.Event()
        self._may_write.set()

    # --- what the event loop tells -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client is there."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by create_server
        listener = self._listener
        listener.connections.add(self)
        if len(listener.connections) > listener.most:
            self._refuse(Problem(503, "connections", "Too many connections are open.", retry_after=1))

    def data_received(self, data: bytes) -> None:
        """asyncio: some bytes have come."""
        phase = self._phase
        if phase is Phase.IDLE and (self._h11 is None or not self._h11.trailing_data[0]):
            heads = self._listener.heads
            if heads is not None and (request := heads.read(data)) is not None:
                self._phase, self._since = Phase.ANSWERING, self._loop.time()
                self._listener.application.hot(request, self)
                return
        elif phase is Phase.LINGERING:
            self._thrown_away += len(data)
            if self._thrown_away > MOST_LINGERING_BYTES:
                self._abort()
            return
        elif phase is Phase.ANSWERING and self._exchange is None:
            self._early += data
            if len(self._early) > MOST_HEAD_BYTES:
                self._pause_reading()
            return
        if self._h11 is None:
            self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._h11.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """asyncio: the client has closed its side."""
        self._ended = True
        if self._exchange is not None and self._h11 is not None and self._h11.their_state is h11.SEND_BODY:
            self._abort()  # its body broke off
        # A client may close its side once it has asked; TLS knows no such thing.
        return self._phase is Phase.ANSWERING and self._listener.scheme == "http"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """asyncio: it is over."""
        self._listener.connections.discard(self)
        self._may_write.set()
        self._transport = None
        if self._exchange is not None:
            self._exchange.leave()

    def pause_writing(self) -> None:
        """asyncio: the client takes its answer slower than it is written."""
        self._may_write.clear()
        self._pause_reading()

    def resume_writing(self) -> None:
        """asyncio: it has caught up."""
        self._may_write.set()
        self._resume_reading()

    # --- what the listener and the application tell ------------------------------------------------------------------

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer a plain request.

        Args:
            status: HTTP status.
            headers: Whole lines, each with its line end; date and length are added.
            body: Empty for 304.
        """
        transport, listener = self._transport, self._listener
        if transport is None or self._phase is not Phase.ANSWERING:
            return
        length = b"" if status == 304 else b"content-length: %d\r\n" % len(body)
        close = b"connection: close\r\n" if listener.stopping else b""
        transport.write(
            b"HTTP/1.1 %d %b\r\n%b%b%bdate: %b\r\n\r\n%b"
            % (status, _REASONS.get(status, b""), headers, length, close, listener.date, body)
        )
        self._phase, self._since = Phase.IDLE, self._loop.time()
        if listener.stopping or self._ended:
            transport.close()
        elif self._early:
            data, self._early = self._early, b""
            self._resume_reading()
            self._loop.call_soon(self._again, data)

    def overdue(self, now: float) -> None:
        """Cut the client off if it has let this connection wait too long; called now and then."""
        waited = now - self._since
        if self._phase is Phase.ANSWERING:
            reading = self._h11 is not None and self._h11.their_state is h11.SEND_BODY
            if (reading or not self._may_write.is_set()) and waited > BODY_SECONDS:
                self._abort()
        elif self._phase is Phase.READING_HEAD:
            if waited > HEAD_SECONDS:
                self._refuse(Problem(408, "slow", f"The request did not come within {HEAD_SECONDS:.0f} s."))
        elif waited > (LINGER_SECONDS if self._phase is Phase.LINGERING else IDLE_SECONDS):
            self._abort()

    def stop(self) -> None:
        """End after the request under way, at once if there is none."""
        if self._phase is not Phase.ANSWERING and self._transport is not None:
            self._transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._phase is Phase.ANSWERING

    def abandon(self) -> None:
        """End now."""
        if self._task is not None:
            self._task.cancel()
        self._abort()

    # --- requests by way of h11 --------------------------------------------------------------------------------------

    def _again(self, data: bytes) -> None:
        if self._transport is not None:
            self.data_received(data)

    def _advance(self) -> None:
        """Act on what h11 makes of the bytes so far."""
        parser = self._h11
        while parser is not None and self._transport is not None and self._phase is not Phase.LINGERING:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint if error.error_status_hint in TITLES else 400
                self._refuse(Problem(status, "http", f"This is no HTTP request that can be read: {error}."))
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data) and self._exchange is not None:
                self._exchange.feed(bytes(event.data))
                if self._exchange.buffered > MOST_BUFFERED:
                    self._pause_reading()
            elif isinstance(event, h11.EndOfMessage) and self._exchange is not None:
                self._exchange.end()
            else:
                if event is h11.PAUSED:
                    self._pause_reading()
                elif self._phase is Phase.IDLE and parser.trailing_data[0]:
                    self._phase, self._since = Phase.READING_HEAD, self._loop.time()
                return

    def _begin(self, request: h11.Request) -> None:
        transport = self._transport
        if transport is None:
            return
        self._phase, self._since = Phase.ANSWERING, self._loop.time()
        self._exchange = Exchange(
            request,
            _address(transport.get_extra_info("peername")),
            _address(transport.get_extra_info("sockname")),
            self._listener.scheme,
            self._write,
            self._may_write.wait,
            self._more,
        )
        self._task = self._loop.create_task(self._run(self._exchange))

    async def _run(self, exchange: Exchange) -> None:
        """The application answers its own failures; what it leaves unanswered ends the connection."""
        try:
            await self._listener.application(exchange.scope, exchange.receive, exchange.send)
        finally:
            self._task = None
            if self._exchange is exchange:
                self._abort()

    def _more(self) -> None:
        """The application wants more of the body, or has made room for it."""
        if self._h11 is not None and self._transport is not None:
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                self._transport.write(self._h11.send(go_on) or b"")
            self._resume_reading()

    def _write(self, message: Message) -> None:
        """An event of the answer."""
        transport, parser, exchange = self._transport, self._h11, self._exchange
        if transport is None or parser is None or exchange is None:
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        data = b""
        if self._head:
            status, headers = self._head["status"], [*self._head["headers"], (b"date", self._listener.date)]
            if self._listener.stopping:
                headers.append((b"connection", b"close"))
            self._head = {}
            data = (
                parser.send(
                    h11.Response(status_code=status, headers=headers, reason=_REASONS.get(status, b""))
                )
                or b""
            )
        if message.get("body") and exchange.scope["method"] != "HEAD":
            data += parser.send(h11.Data(data=message["body"])) or b""
        if not message.get("more_body"):
            data += parser.send(h11.EndOfMessage()) or b""
        transport.write(data)
        if not message.get("more_body"):
            self._answered(parser)

    def _answered(self, parser: h11.Connection) -> None:
        self._exchange = None
        if (
            parser.our_state is h11.DONE
            and parser.their_state is h11.DONE
            and not (self._ended or self._listener.stopping)
        ):
            parser.start_next_cycle()
            self._phase, self._since = Phase.IDLE, self._loop.time()
            self._resume_reading()
            self._loop.call_soon(self._advance)
        else:
            self._linger()

    # --- endings -----------------------------------------------------------------------------------------------------

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request, and end the connection."""
        if self._transport is None:
            return
        if self._exchange is not None:  # its body broke off: there is nobody to answer
            self._exchange.leave()
            self._abort()
            return
        body = problem.body()
        headers = [*self._listener.application.refused(problem), *problem.headers]
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._transport.write(
            b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\ndate: %b\r\n\r\n%b"
            % (problem.status, _REASONS[problem.status], lines, len(body), self._listener.date, body)
        )
        self._linger()

    def _linger(self) -> None:
        self._phase, self._since = Phase.LINGERING, self._loop.time()
        self._early = b""
        if self._transport is not None:
            self._resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:  # TLS closes both ways and tells the client
                self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if (
            self._transport is not None
            and not self._transport.is_closing()
            and not self._transport.is_reading()
            and self._may_write.is_set()
        ):
            self._transport.resume_reading()


_REASONS: Final = {200: b"OK", 304: b"Not Modified", **{s: t.encode() for s, t in TITLES.items()}}


def _address(given: Any) -> tuple[str, int] | None:
    """Host and port; none of a Unix socket."""
    return (str(given[0]), int(given[1])) if isinstance(given, tuple) else None
