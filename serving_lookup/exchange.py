"""One request and its answer as ASGI 3 sees them, between a connection and the application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    import h11

    Message = MutableMapping[str, Any]

MOST_BUFFERED: Final = 256 * 1024
"""Bytes of a body that wait to be read; the client is held back at more."""


class Exchange:
    """What the application reads and where it writes.

    Args:
        request: The head, as h11 read it.
        client, server: Addresses of both ends.
        scheme: ``http`` or ``https``.
        write: Takes events of the answer.
        writable: Waits until the client takes more.
        resume: Tells that there is room for more of the body, or that the client must be told to send it.
    """

    def __init__(
        self,
        request: h11.Request,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        scheme: str,
        write: Callable[[Message], None],
        writable: Callable[[], Any],
        resume: Callable[[], None],
    ) -> None:
        path, _, query = request.target.partition(b"?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": scheme,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": client,
            "server": server,
        }
        self.started = False
        self.complete = False
        self._write, self._writable, self._resume = write, writable, resume
        self._chunks: list[bytes] = []
        self._ended = self._told = self._gone = False
        self._news = asyncio.Event()

    @property
    def buffered(self) -> int:
        """Bytes of the body that wait to be read."""
        return sum(map(len, self._chunks))

    def feed(self, chunk: bytes) -> None:
        """Some of the body has come."""
        self._chunks.append(chunk)
        self._news.set()

    def end(self) -> None:
        """All of the body has come."""
        self._ended = True
        self._news.set()

    def leave(self) -> None:
        """The client has gone; what is written from now on is dropped."""
        self._gone = True
        self._news.set()

    async def receive(self) -> Message:
        """ASGI's ``receive``."""
        while not self._gone and not self.complete:
            if self._chunks or (self._ended and not self._told):
                body, self._chunks, self._told = b"".join(self._chunks), [], self._ended
                self._resume()
                return {"type": "http.request", "body": body, "more_body": not self._ended}
            self._resume()
            self._news.clear()
            await self._news.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``."""
        if self._gone or self.complete:
            return
        if message["type"] == "http.response.start":
            self.started = True
        elif not message.get("more_body"):
            self.complete = True
            self._news.set()
        self._write(message)
        await self._writable()
