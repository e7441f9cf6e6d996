"""A load generator: requests as fast as they are answered, or at a rate, whatever becomes of the answers.

Speaks HTTP/1.1 and RESP, so that the service and the store beneath it are measured by the same hands. It runs
in a process of its own, started by :func:`measure`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import hiredis
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Protocol = Literal["http", "resp"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
_TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Load:
    """What is asked, and how hard.

    Attributes:
        protocol, port: What answers, on this machine.
        requests: Ready bytes, sent in turn.
        connections: How many at once.
        rate: Requests per second that come whatever happens; ``None``: as many as are answered.
        timed: One per request: whether its latency counts; ``None``: all do.
    """

    protocol: Protocol
    port: int
    requests: Sequence[bytes]
    connections: int = 32
    rate: float | None = None
    timed: Sequence[bool] | None = None


@dataclass(frozen=True)
class LoadResult:
    """What one run saw.

    Attributes:
        requests: Answered in the measured time.
        shed: Of them, with 503.
        failures: Other answers than 200 and 503, error replies, and connections that broke.
        seconds: Measured time.
        percentiles_ms: Latency by percentile, of good answers to requests that are timed; in an open loop since the
            request was due.
    """

    requests: int
    shed: int
    failures: int
    seconds: float
    percentiles_ms: dict[float, float]

    @property
    def rate(self) -> float:
        """Answers per second, those that were shed left out."""
        return (self.requests - self.shed) / self.seconds


def measure(load: Load, *, seconds: float, warm_up: float = 0.5) -> LoadResult:
    """Send requests from a fresh process.

    Args:
        load: What to send.
        seconds: How long to measure.
        warm_up: Seconds before measuring begins.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_run, (load, seconds, warm_up))


def _run(load: Load, seconds: float, warm_up: float) -> LoadResult:
    import uvloop

    return uvloop.run(_drive(load, seconds, warm_up))


class _Tally:
    """Latencies while measuring, what was shed and what failed."""

    def __init__(self, load: Load) -> None:
        self.turn = itertools.cycle(zip(load.requests, load.timed or itertools.repeat(True), strict=False))
        self.closed_loop = load.rate is None
        self.latencies: list[float] = []
        self.answered = self.shed = self.failures = 0
        self.measuring = False
        self.open = True
        self.free: deque[_Connection] = deque()
        self.due: deque[float] = deque()

    def count(self, latency: float, *, good: bool, shed: bool, timed: bool) -> None:
        if self.measuring:
            self.answered += 1
            self.shed += shed
            self.failures += not good and not shed
            if good and timed:
                self.latencies.append(latency)


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: _Tally) -> None:
        self._tally, self._since, self._timed = tally, 0.0, True
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by create_connection
        if self._tally.closed_loop:
            self.ask(time.perf_counter())
        else:
            self._tally.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._tally.open:
            self._tally.failures += 1

    def ask(self, since: float) -> None:
        if self._transport is not None and self._tally.open:
            self._since = since
            request, self._timed = next(self._tally.turn)
            self._transport.write(request)

    def _answered(self, *, good: bool, shed: bool = False) -> None:
        now, tally = time.perf_counter(), self._tally
        tally.count(now - self._since, good=good, shed=shed, timed=self._timed)
        if tally.closed_loop:
            self.ask(now)
        elif tally.due:
            self.ask(tally.due.popleft())
        else:
            tally.free.append(self)


class _HttpConnection(_Connection):
    _head, _status, _missing = b"", b"", 0

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            head = self._head + data
            end = head.find(b"\r\n\r\n")
            if end < 0:
                self._head = head
                return
            at = head.find(b"ontent-length: ")
            at = at if 0 < at < end else head.find(b"ontent-Length: ")
            length = int(head[at + 15 : head.find(b"\r", at)])
            self._head, self._status, self._missing = b"", head[9:12], end + 4 + length - len(head)
        if not self._missing:
            self._answered(good=self._status == b"200", shed=self._status == b"503")


class _RespConnection(_Connection):
    def __init__(self, tally: _Tally) -> None:
        super().__init__(tally)
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        reply = self._reader.gets()
        if reply is not False:
            self._answered(good=not isinstance(reply, hiredis.ReplyError))


_KINDS: dict[Protocol, type[_Connection]] = {"http": _HttpConnection, "resp": _RespConnection}


async def _drive(load: Load, seconds: float, warm_up: float) -> LoadResult:
    tally, loop = _Tally(load), asyncio.get_running_loop()
    for _ in range(load.connections):
        await loop.create_connection(lambda: _KINDS[load.protocol](tally), "127.0.0.1", load.port)
    arrivals = loop.create_task(_arrive(tally, load.rate)) if load.rate is not None else None
    await asyncio.sleep(warm_up)
    tally.measuring, begun = True, time.perf_counter()
    await asyncio.sleep(seconds)
    tally.measuring = tally.open = False
    took = time.perf_counter() - begun
    if arrivals is not None:
        arrivals.cancel()
    milliseconds = np.percentile(np.array(tally.latencies or [np.nan]) * 1000, PERCENTILES)
    shares = {p: float(m) for p, m in zip(PERCENTILES, milliseconds, strict=True)}
    return LoadResult(tally.answered, tally.shed, tally.failures, took, shares)


async def _arrive(tally: _Tally, rate: float) -> None:
    """Requests fall due each millisecond, as many as the rate has by then; late ones wait from when they were due."""
    begun, sent = time.perf_counter(), 0
    for tick in itertools.count(1):
        due = begun + tick * _TICK_SECONDS
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        wanted = int(rate * tick * _TICK_SECONDS)
        for _ in range(wanted - sent):
            if tally.free:
                tally.free.popleft().ask(due)
            else:
                tally.due.append(due)
        sent = wanted


def interleave(many: Sequence[bytes], few: Sequence[bytes], share: float) -> Iterator[tuple[bytes, bool]]:
    """``many`` with a share of ``few`` strewn in evenly; whether each is of ``many``."""
    rare, owed = itertools.cycle(few), 0.0
    for request in many:
        yield request, True
        owed += share / (1 - share)
        if owed >= 1:
            owed -= 1
            yield next(rare), False
