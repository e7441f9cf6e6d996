"""More hits than the service can answer, for a while: what is answered, what is refused, whether probes stay quick."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import httpx

from materialize.cli.bench_lookup_load import measure

if TYPE_CHECKING:
    from materialize.cli.bench_lookup_load import Load
    from materialize.cli.bench_lookup_world import Server

TIMES_CAPACITY: Final = 2.0
CONNECTIONS: Final = 3000
"""More than ``lookup.max_under_way``, or nothing would ever be refused: a connection has one request at a time."""

_PROBE_SECONDS: Final = 0.25
_QUICK_SECONDS: Final = 0.05
_QUICK_IN_A_ROW: Final = 10
_PATIENCE_SECONDS: Final = 60.0


class Probes(threading.Thread):
    """Asks for the service's health as a load balancer would, each time on a connection of its own.

    Args:
        server: The service.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._url, self._over = f"http://127.0.0.1:{server.port}/health/ready", threading.Event()
        self._workers = server.workers
        self.seconds: list[float] = []
        self.failures = 0
        self.memory: list[float] = []
        """Resident MiB of the workers, after each probe."""

    def run(self) -> None:
        """Until :meth:`stop`."""
        while not self._over.wait(_PROBE_SECONDS):
            begun = time.perf_counter()
            try:
                good = httpx.get(self._url, timeout=10).status_code == httpx.codes.OK
            except httpx.TransportError:
                good = False
            self.seconds.append(time.perf_counter() - begun)
            self.failures += not good
            self.memory.append(sum(process.memory_info().rss for process in self._workers) / 2**20)

    def stop(self) -> None:
        """No more probes."""
        self._over.set()
        self.join()


def overload(server: Server, load: Load, capacity: float, seconds: float) -> dict[str, float]:
    """Send twice what can be answered.

    Args:
        server: The service.
        load: Hits.
        capacity: Hits per second that it answers in a closed loop.
        seconds: How long.

    Returns:
        Rates per second, latencies of probes in milliseconds, seconds until hits are quick again, MiB.
    """
    probes = Probes(server)
    probes.start()
    rate = TIMES_CAPACITY * capacity
    result = measure(replace(load, rate=rate, connections=CONNECTIONS), seconds=seconds)
    over = time.perf_counter()
    probes.stop()
    _wait_until_quick(server)
    recovered = time.perf_counter() - over
    milliseconds = [1000 * second for second in probes.seconds] or [float("nan")]
    memory = probes.memory or [float("nan")]
    return {
        "seconds": seconds,
        "offered/s": round(rate),
        "answered/s": round(result.rate),
        "shed/s": round(result.shed / result.seconds),
        "failures": result.failures + probes.failures,
        "probe p50 ms": round(statistics.median(milliseconds), 1),
        "probe max ms": round(max(milliseconds), 1),
        "quick again after s": round(recovered, 2),
        "MiB at first": round(memory[0]),
        "MiB at last": round(memory[-1]),
    }


def _wait_until_quick(server: Server) -> None:
    """Until so many probes in a row took as long as they do without load."""
    quick, deadline = 0, time.monotonic() + _PATIENCE_SECONDS
    while quick < _QUICK_IN_A_ROW and time.monotonic() < deadline:
        begun = time.perf_counter()
        good = (
            httpx.get(f"http://127.0.0.1:{server.port}/health/ready", timeout=10).status_code
            == httpx.codes.OK
        )
        quick = quick + 1 if good and time.perf_counter() - begun < _QUICK_SECONDS else 0
