"""A TCP proxy in front of a store: it can be slow, fall silent, cut or refuse connections, end TLS, change its target."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class StoreProxy:
    """Listens on a port of its own; a context.

    Args:
        target: Port of this machine to pass everything to.
        tls: What to end TLS with, where clients speak it.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.delay = 0.0
        """Seconds that every piece of a reply is held back."""
        self.silent = False
        """Whether everything is accepted and nothing passed on."""
        self.welcome = sys.maxsize
        """Connections that are still let through; further ones are closed as they come."""
        self.port = 0
        self.connections = 0
        """Made so far."""
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls), self._loop
        ).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """End all connections."""

        async def all_of_them() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(all_of_them(), self._loop).result(10)

    def lead_to(self, target: int) -> None:
        """End all connections; new ones go to this port, and are answered."""
        self.target, self.silent = target, False
        self.cut()

    def _call(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        if task is None or self.connections > self.welcome:
            writer.close()
            return
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            self._tasks.discard(task)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, back, slow=False))
                both.create_task(self._pass(there, writer, slow=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()
            self._tasks.discard(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await source.read(1 << 16):
            if slow and self.delay:
                await asyncio.sleep(self.delay)
            while self.silent:  # noqa: ASYNC110 - set from the thread of the test
                await asyncio.sleep(0.01)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError("one side has closed")
