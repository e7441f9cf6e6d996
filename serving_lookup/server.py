"""Runs worker processes behind one address until told to stop; one that dies is replaced and inherits its socket."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
import time
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from features.errors import SettingsError
from serving_lookup.access import KeyRing, check_exposure
from serving_lookup.metrics import SharedCounters
from serving_lookup.store_address import StoreAddress
from serving_lookup.worker import STOP_SECONDS, run_worker, tls_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkProcess

    from materialize.settings import Settings

log = structlog.get_logger()

RESPAWN_SECONDS: Final = 1.0
"""Between the starts of workers that die."""

_SET_PARENT_DEATH_SIGNAL: Final = 1


def serve(settings: Settings) -> None:
    """Answer look-ups over HTTP until SIGINT or SIGTERM.

    The store may be down: the service starts, says so at ``/health/ready``, and recovers by itself.
    Call it from a process that has not run numba's parallel kernels: workers are forked.

    Raises:
        SettingsError: If an address cannot be listened on, or strangers would be served by accident, or keys,
            certificate or ``store.url`` cannot be read.
    """
    lookup = settings.lookup
    StoreAddress.parse(settings.store.url.get_secret_value())
    tls = tls_of(lookup)
    KeyRing((), Path(lookup.api_keys_file) if lookup.api_keys_file else None)
    host, port = _listening_address(lookup.host, lookup.port, "lookup.host")
    check_exposure(lookup, host)
    with contextlib.ExitStack() as sockets:
        mains = [sockets.enter_context(_bound(host, port)) for _ in range(lookup.workers)]
        metrics: list[socket.socket | None] = [None] * lookup.workers
        if lookup.metrics_port is not None:
            where = _listening_address(lookup.metrics_host, lookup.metrics_port, "lookup.metrics_host")
            metrics = [sockets.enter_context(_bound(*where)) for _ in range(lookup.workers)]
            log.info("metrics", address=f"http://{where[0]}:{where[1]}/metrics")
        scheme = "http" if tls is None else "https"
        log.info("listening", address=f"{scheme}://{host}:{port}", workers=lookup.workers)
        _Workers(settings, mains, metrics).run()


class _Workers:
    """The processes, one per socket."""

    def __init__(
        self, settings: Settings, mains: Sequence[socket.socket], metrics: Sequence[socket.socket | None]
    ) -> None:
        self._settings, self._mains, self._metrics = settings, mains, metrics
        self._counters = SharedCounters(rows=4 * len(mains) + 16)
        self._fork = get_context("fork")
        self._told = False

    def run(self) -> None:
        """Until a signal; then let the workers end."""
        mine, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        workers = [self._start(i) for i in range(len(self._mains))]
        try:
            while not self._told:
                connection.wait([mine, *(worker.sentinel for worker in workers)])
                for i, worker in enumerate(workers):
                    if not self._told and not worker.is_alive():
                        log.error("worker_died", worker=i, exit_code=worker.exitcode)
                        time.sleep(RESPAWN_SECONDS)
                        workers[i] = self._start(i)
        finally:
            _end(workers)
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            mine.close()
            theirs.close()

    def _start(self, index: int) -> ForkProcess:
        worker = self._fork.Process(target=self._in_worker, args=(index, os.getpid()), name=f"worker-{index}")
        worker.start()
        return worker

    def _in_worker(self, index: int, parent: int) -> None:
        """A worker ends with its parent, or one killed with -9 would leave it listening.

        Source: prctl(2), PR_SET_PDEATHSIG; there is no such thing elsewhere than on Linux.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the call
                sys.exit(1)
        for i, (main, metrics) in enumerate(zip(self._mains, self._metrics, strict=True)):
            if i != index:
                main.close()
                if metrics is not None:
                    metrics.close()
        run_worker(self._settings, self._counters, self._mains[index], self._metrics[index])

    def _stop(self, number: int, frame: object) -> None:  # noqa: ARG002 - a signal handler's signature
        self._told = True


def _end(workers: Sequence[ForkProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    deadline = time.monotonic() + STOP_SECONDS + 2
    for worker in workers:
        worker.join(max(deadline - time.monotonic(), 0))
        if worker.is_alive():
            worker.kill()
            worker.join()


def _bound(host: str, port: int) -> socket.socket:
    """A socket of one worker: all share the port, the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.bind((host, port))
    return made


def _listening_address(host: str, port: int, setting: str) -> tuple[str, int]:
    """The address in numbers, tried, because a worker that cannot listen would only end without a word.

    A port of 0 becomes one that is free.

    Raises:
        SettingsError: If it cannot be listened on.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError(
            f"{setting} is no address of this machine", expected="such as 127.0.0.1 or 0.0.0.0", got=host
        ) from error
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
            probe.listen(1)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise SettingsError(
                f"port {port} of {host} is in use" if taken else f"cannot listen on {host} port {port}",
                got=os.strerror(error.errno or 0),
                fix="choose another with lookup.port, PRESCORE_LOOKUP__PORT or --port, or end what listens there",
            ) from error
        return str(where[0]), int(probe.getsockname()[1])
