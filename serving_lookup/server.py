"""Runs the application in Granian's worker processes until it is told to stop."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

import structlog
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from features.errors import SettingsError
from serving_lookup.access import check_exposure
from serving_lookup.app import LookupApplication
from serving_lookup.metrics import SharedCounters
from serving_lookup.store import StoreAddress

if TYPE_CHECKING:
    from materialize.settings import Settings

log = structlog.get_logger()

BACKLOG = 2048
HEADER_READ_MS = 10_000
"""A client that takes longer to send its headers is cut off."""

MAX_BUFFER_BYTES = 256 * 1024
"""Limit on request line and headers together."""

STOP_SECONDS = 10
_SET_PARENT_DEATH_SIGNAL = 1


def serve(settings: Settings) -> None:
    """Answer look-ups over HTTP until SIGINT or SIGTERM.

    The store may be down: the service starts, says so at ``/health/ready``, and recovers by itself.
    Call it from a process that has not run numba's parallel kernels: workers are forked.

    Raises:
        SettingsError: If the address cannot be listened on, or strangers would be served by accident, or
            ``store.url`` cannot be read.
    """
    lookup = settings.lookup
    StoreAddress.parse(settings.store.url.get_secret_value())
    host, port = _listening_address(lookup.host, lookup.port)
    check_exposure(lookup, host)
    counters = SharedCounters(rows=4 * lookup.workers + 16)
    server = Server(
        "serving_lookup.app:LookupApplication",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=lookup.workers,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_READ_MS, max_buffer_size=MAX_BUFFER_BYTES),
        websockets=False,
        backlog=BACKLOG,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
    )
    log.info("listening", address=f"http://{host}:{port}", workers=lookup.workers)
    server.serve(target_loader=partial(_in_worker, settings, counters, os.getpid()), wrap_loader=False)


def _in_worker(settings: Settings, counters: SharedCounters, parent: int) -> LookupApplication:
    """A worker's application; the worker ends with its parent, or one killed with -9 would leave it listening.

    Source: prctl(2), PR_SET_PDEATHSIG; there is no such thing elsewhere than on Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            sys.exit(1)
    return LookupApplication(settings, counters)


def _listening_address(host: str, port: int) -> tuple[str, int]:
    """The address in numbers, tried, because a worker that cannot listen would only end without a word.

    A port of 0 becomes one that is free.

    Raises:
        SettingsError: If it cannot be listened on.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError(
            "lookup.host is no address of this machine", expected="such as 127.0.0.1 or 0.0.0.0", got=host
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
