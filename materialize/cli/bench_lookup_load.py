"""A closed-loop load generator: each connection sends its next request when it has the answer to the last.

Speaks HTTP/1.1 and RESP, so that the service and the store beneath it are measured by the same hands. It runs
in a process of its own, started by :func:`measure`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import hiredis
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Protocol = Literal["http", "resp"]


@dataclass(frozen=True)
class LoadResult:
    """What one run saw.

    Attributes:
        requests: Answered in the measured time.
        failures: Answers other than 200, error replies, and connections that broke.
        seconds: Measured time.
        percentiles_ms: Latency by percentile.
    """

    requests: int
    failures: int
    seconds: float
    percentiles_ms: dict[float, float]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


def measure(
    protocol: Protocol,
    port: int,
    requests: Sequence[bytes],
    *,
    seconds: float,
    connections: int = 32,
    warm_up: float = 0.5,
) -> LoadResult:
    """Send requests to a port of this machine, over and over, from a fresh process.

    Args:
        protocol: What is spoken there.
        port: Where.
        requests: Ready bytes, sent in turn.
        seconds: How long to measure.
        connections: How many at once.
        warm_up: Seconds before measuring begins.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_run, (protocol, port, list(requests), seconds, connections, warm_up))


def _run(
    protocol: Protocol, port: int, requests: list[bytes], seconds: float, connections: int, warm_up: float
) -> LoadResult:
    import uvloop

    return uvloop.run(_load(protocol, port, requests, seconds, connections, warm_up))


class _Tally:
    """Latencies since :meth:`begin`, and what failed."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failures = 0
        self.measuring = False
        self.open = True


class _Connection(asyncio.Protocol):
    """One connection in the loop of request and answer."""

    def __init__(self, tally: _Tally, requests: Iterator[bytes]) -> None:
        self._tally, self._requests, self._sent = tally, requests, 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by create_connection
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._tally.open:
            self._tally.failures += 1

    def _send(self) -> None:
        if self._transport is not None and self._tally.open:
            self._sent = time.perf_counter()
            self._transport.write(next(self._requests))

    def _answered(self, *, good: bool) -> None:
        tally = self._tally
        if tally.measuring:
            tally.latencies.append(time.perf_counter() - self._sent)
            tally.failures += not good
        self._send()


class _HttpConnection(_Connection):
    _buffer = b""

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end > 0:
            at = buffer.find(b"ontent-length: ")
            at = at if 0 < at < end else buffer.find(b"ontent-Length: ")
            length = int(buffer[at + 15 : buffer.find(b"\r", at)])
            if len(buffer) >= end + 4 + length:
                self._buffer = b""
                self._answered(good=buffer[9:12] == b"200")
                return
        self._buffer = buffer


class _RespConnection(_Connection):
    def __init__(self, tally: _Tally, requests: Iterator[bytes]) -> None:
        super().__init__(tally, requests)
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        reply = self._reader.gets()
        if reply is not False:
            self._answered(good=not isinstance(reply, hiredis.ReplyError))


_KINDS: dict[Protocol, type[_Connection]] = {"http": _HttpConnection, "resp": _RespConnection}


async def _load(
    protocol: Protocol, port: int, requests: list[bytes], seconds: float, connections: int, warm_up: float
) -> LoadResult:
    tally, turn, loop = _Tally(), itertools.cycle(requests), asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _KINDS[protocol](tally, turn), "127.0.0.1", port)
    await asyncio.sleep(warm_up)
    tally.measuring, begun = True, time.perf_counter()
    await asyncio.sleep(seconds)
    tally.measuring = tally.open = False
    took = time.perf_counter() - begun
    milliseconds = np.percentile(np.array(tally.latencies or [np.nan]) * 1000, PERCENTILES)
    shares = {p: float(m) for p, m in zip(PERCENTILES, milliseconds, strict=True)}
    return LoadResult(len(tally.latencies), tally.failures, took, shares)
