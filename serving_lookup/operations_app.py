"""What an address of its own for operations answers: metrics and health, and nothing that names a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serving_lookup.problems import no_such_path

if TYPE_CHECKING:
    from serving_lookup.app import LookupApplication, Receive, Scope, Send
    from serving_lookup.connection import Connection
    from serving_lookup.http_head import HotRequest
    from serving_lookup.problems import Problem

_SHOWN: Final = frozenset({b"/metrics", b"/health/live", b"/health/ready"})


class OperationsApplication:
    """A part of the application.

    Args:
        whole: All of it.
    """

    def __init__(self, whole: LookupApplication) -> None:
        self._whole = whole

    def hot(self, request: HotRequest, connection: Connection) -> None:
        """There are no look-ups here."""
        problem = no_such_path(request.raw_path)
        lines = b"".join([b"%b: %b\r\n" % line for line in [*problem.headers, *self.refused(problem)]])
        connection.answer(problem.status, lines, problem.body())

    def refused(self, problem: Problem) -> list[tuple[bytes, bytes]]:
        """As on the main address."""
        return self._whole.refused(problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI 3."""
        path: Any = scope["raw_path"]
        if path in _SHOWN:
            await self._whole.operate(scope, receive, send)
        else:
            await self._whole.tell(no_such_path(path), scope, send)
