"""One worker process: its event loop, its listening sockets, the sweep over connections, and an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import ssl
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from features.errors import SettingsError
from serving_lookup.app import LookupApplication
from serving_lookup.connection import Listener
from serving_lookup.door import Door
from serving_lookup.http_head import HotHeads
from serving_lookup.operations_app import OperationsApplication

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from materialize.settings import LookupSettings, Settings
    from serving_lookup.metrics import SharedCounters

log = structlog.get_logger()

STOP_SECONDS: Final = 10.0
"""Requests under way may take so long when the worker is told to stop."""

_SWEEP_SECONDS: Final = 0.5
_MOST_CONNECTIONS: Final = 20_000
_OTHER_FILES: Final = 200
_ALLOCATIONS_BETWEEN_COLLECTIONS: Final = 50_000


def run_worker(
    settings: Settings, counters: SharedCounters, main: socket.socket, metrics: socket.socket | None
) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        settings: The whole tree.
        counters: Memory shared with the other workers.
        main: Bound; this worker's own.
        metrics: For operations alone; bound.
    """
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(settings, counters, main, metrics))


async def _serve(
    settings: Settings, counters: SharedCounters, main: socket.socket, metrics: socket.socket | None
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    application = LookupApplication(settings, counters)
    await application.start()
    # What is loaded by now stays, and requests leave few cycles behind; rows that wait in a batch look like many to it.
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)
    tls = tls_of(settings.lookup)
    most = _most_connections()
    listeners = [Listener(application, HotHeads(settings.model), most, secure=tls is not None)]
    doors = [Door(main, listeners[0], tls)]
    if metrics is not None:
        listeners.append(Listener(OperationsApplication(application), None, 100))
        doors.append(Door(metrics, listeners[1], None))
    sweep = loop.create_task(_sweep(application, listeners))
    await told.wait()
    for door in doors:
        door.close()
    await _finish(listeners)
    sweep.cancel()
    await application.close()


async def _sweep(application: LookupApplication, listeners: Sequence[Listener]) -> None:
    """Twice a second: the date of answers, keys that came or went, clients that let us wait."""
    loop = asyncio.get_running_loop()
    while True:
        date = formatdate(time.time(), usegmt=True).encode()
        now = loop.time()
        for listener in listeners:
            listener.date = date
            for connection in list(listener.connections):
                connection.overdue(now)
        application.keys.refresh()
        await asyncio.sleep(_SWEEP_SECONDS)


async def _finish(listeners: Sequence[Listener]) -> None:
    """Let requests under way end."""
    for listener in listeners:
        listener.stopping = True
        for connection in list(listener.connections):
            connection.stop()
    deadline = time.monotonic() + STOP_SECONDS
    while any(c.busy for listener in listeners for c in listener.connections):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.02)
    for listener in listeners:
        for connection in list(listener.connections):
            connection.abandon()


def tls_of(lookup: LookupSettings) -> ssl.SSLContext | None:
    """What TLS needs, if the settings ask for it.

    Raises:
        SettingsError: If a file is missing or they do not belong together.
    """
    if not lookup.tls_certificate and not lookup.tls_key:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if not lookup.tls_certificate or not lookup.tls_key:
            raise ValueError("only one of them is set")  # noqa: TRY301 - one message for all faults
        context.load_cert_chain(Path(lookup.tls_certificate), Path(lookup.tls_key))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            "TLS cannot be set up",
            expected="lookup.tls_certificate and lookup.tls_key: PEM files that belong together, the key unencrypted",
            got=str(error),
        ) from error
    return context


def _most_connections() -> int:
    """As many as there may be open files, with some left for the rest."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(min(_MOST_CONNECTIONS, files - _OTHER_FILES), 50)
