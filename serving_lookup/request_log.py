"""What the log says of requests: each refusal once, with the request's id, never who was asked for; bounded in rate."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving_lookup.problems import Problem

log = structlog.get_logger()

REQUEST_ID: Final = b"x-request-id"
MOST_PER_SECOND: Final = 20
_FIT: Final = re.compile(rb"[0-9A-Za-z._:+/=@-]{1,128}").fullmatch


class RequestLog:
    """The log of one worker."""

    def __init__(self) -> None:
        self._prefix, self._numbers = secrets.token_hex(6).encode(), itertools.count(1)
        self._second, self._told, self._left_out = 0, 0, 0

    def id_of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The request's own id if it has one that fits a log, else a new one."""
        for name, value in headers:
            if name == REQUEST_ID and _FIT(value):
                return value
        return b"%b-%x" % (self._prefix, next(self._numbers))

    def refused(self, route: str, request_id: bytes, problem: Problem) -> None:
        """A request was answered with a problem. More than a few in a second are only counted."""
        if not self._may_tell():
            return
        tell = log.warning if problem.status >= 500 else log.info
        tell(
            "request_refused",
            route=route,
            request_id=request_id.decode(),
            status=problem.status,
            code=problem.code,
        )

    def failed(self, route: str, request_id: bytes, error: Exception) -> None:
        """A request broke the program."""
        if self._may_tell():
            log.error("request_failed", route=route, request_id=request_id.decode(), exc_info=error)

    def _may_tell(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                log.warning("refusals_left_out", count=self._left_out)
            self._second, self._told, self._left_out = second, 0, 0
        self._told += 1
        if self._told > MOST_PER_SECOND:
            self._left_out += 1
            return False
        return True
