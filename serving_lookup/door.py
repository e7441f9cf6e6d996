"""A listening socket: takes all connections that wait, each turn of the loop.

The event loop's own servers take one a turn (libuv since 1.49). Under load a turn is long, and then new clients, a health
probe among them, would wait behind thousands of others.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    import socket
    import ssl

    from serving_lookup.connection import Listener

log = structlog.get_logger()

BACKLOG: Final = 2048
_MOST_AT_ONCE: Final = 256
_HANDSHAKE_SECONDS: Final = 10.0
_SHUTDOWN_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.5


class Door:
    """Accepts for a listener until it is closed. Use within one event loop.

    Args:
        bound: The socket, bound; closed with the door.
        listener: Makes a protocol for each connection.
        tls: To speak TLS.
    """

    def __init__(self, bound: socket.socket, listener: Listener, tls: ssl.SSLContext | None) -> None:
        self._socket, self._listener, self._tls = bound, listener, tls
        self._loop = asyncio.get_running_loop()
        self._greeted: set[asyncio.Task[None]] = set()
        self._open = True
        bound.setblocking(False)
        bound.listen(BACKLOG)
        self._loop.add_reader(bound.fileno(), self._accept)

    def close(self) -> None:
        """Take no more connections; those that were taken stay."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _accept(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                client, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files: they wait in the backlog until some are closed
                log.warning("accept_failed", why=str(error))
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_PAUSE_SECONDS, self._again)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._greet(client))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    def _again(self) -> None:
        if self._open:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _greet(self, client: socket.socket) -> None:
        limits = (
            {"ssl_handshake_timeout": _HANDSHAKE_SECONDS, "ssl_shutdown_timeout": _SHUTDOWN_SECONDS}
            if self._tls is not None
            else {}
        )
        with contextlib.suppress(OSError):  # a client that has left, or that speaks no TLS
            await self._loop.connect_accepted_socket(self._listener, client, ssl=self._tls, **limits)
