"""Keeps a server busy over a few connections that stay open, and collects every answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


async def fetch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, bytes]:
    """One request on an open connection: status and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


class Load:
    """Requests without a pause until :meth:`stop`.

    Args:
        address: Server.
        path_of: Path of the n-th request of a connection.
        connections: How many at once.
    """

    def __init__(self, address: str, path_of: Callable[[int], str], connections: int = 4) -> None:
        self.answers: list[tuple[str, int, dict[str, Any]]] = []
        """(path, status, document) of every request that was answered."""
        self.failures: list[str] = []
        self._parts, self._path_of, self._running = urlsplit(address), path_of, True
        self._tasks = [asyncio.create_task(self._run(i)) for i in range(connections)]

    async def stop(self) -> None:
        """Let the last requests finish."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def _run(self, connection: int) -> None:
        n = connection * 7919
        reader, writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        while self._running:
            path = self._path_of(n)
            n += 1
            try:
                status, body = await asyncio.wait_for(fetch(reader, writer, path), 10)
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(f"{path}: {error!r}")
                break
            self.answers.append((path, status, msgspec.json.decode(body)))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
