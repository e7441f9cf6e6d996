"""Reads a plain request for recommendations at a glance; whatever is unusual is left to the full parser.

Only a GET without a body, or a batch's POST with all of its body, alone in what came from the client, with well-formed
headers is read here: the same bytes that a strict HTTP/1.1 parser (RFC 9112) would accept, so the two never disagree
about where a request ends.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_HEADERS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\t\x20-\x7e\x80-\xff]*\r\n)+")
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection", b"trailer", b"te"})
_LENGTH: Final = b"content-length"
_LONGEST_LENGTH: Final = 9
"""Digits."""

_NEVER_TWICE: Final = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"date", b"if-none-match"})
_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 2048


class HotRequest(NamedTuple):
    """A request for one user's list, or for those of a batch.

    Attributes:
        raw_path: As it was sent, percent-encoded.
        user: Its segment with the user's id; empty for a batch.
        query: After the question mark.
        headers: Names in lower case, values without blanks around them, in the order of the request.
        body: Of a batch; ``None``: this is not one.
    """

    raw_path: bytes
    user: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None = None

    @property
    def route(self) -> str:
        """As metrics and log name it."""
        return "recommendations" if self.body is None else "batch"


class HotHeads:
    """Recognises the requests of one model.

    Args:
        model: Its name, of letters, digits and underscores.
    """

    def __init__(self, model: str) -> None:
        path = rb"(/v1/models/%b/users/([^/?# \r\n]+)/recommendations)" % model.encode()
        self._line = re.compile(rb"GET " + path + rb"(?:\?([\x21\x22\x24-\x7e]*))? HTTP/1\.1\r\n").match
        self._batch = b"/v1/models/%b/recommendations:batch" % model.encode()
        self._batch_line = b"POST %b HTTP/1.1\r\n" % self._batch
        self._known: dict[bytes, tuple[tuple[bytes, bytes], ...]] = {}

    def read(self, data: bytes) -> HotRequest | None:
        """The request that these bytes are, all of them; ``None`` if they are anything else."""
        line = self._line(data)
        if line is None:
            return self._read_batch(data) if data.startswith(self._batch_line) else None
        if data[-4:] != b"\r\n\r\n":
            return None
        headers = self._headers(data[line.end() : -2])
        if headers is None or _lengths(headers):
            return None
        path, user, query = line.groups(b"")
        return HotRequest(path, user, query, headers)

    def _read_batch(self, data: bytes) -> HotRequest | None:
        end = data.find(b"\r\n\r\n")
        headers = self._headers(data[len(self._batch_line) : end + 2]) if end > 0 else None
        lengths = _lengths(headers) if headers is not None else []
        body = data[end + 4 :]
        if headers is None or len(lengths) != 1 or len(lengths[0]) > _LONGEST_LENGTH:
            return None
        if not lengths[0].isdigit() or int(lengths[0]) != len(body):
            return None
        return HotRequest(self._batch, b"", b"", headers, body)

    def _headers(self, block: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
        # Connections repeat their headers to the byte, so reading them again is a dictionary look-up.
        return self._known.get(block) or self._read_headers(block)

    def _read_headers(self, block: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
        if _HEADERS.fullmatch(block) is None:
            return None
        pairs = (line.split(b":", 1) for line in block.split(b"\r\n")[:-1])
        headers = tuple((name.lower(), value.strip(b" \t")) for name, value in pairs)
        names = [name for name, _ in headers]
        if names.count(b"host") != 1 or not _UNUSUAL.isdisjoint(names):
            return None
        if len(block) <= _REMEMBERED_BYTES and _NEVER_TWICE.isdisjoint(names):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = headers
        return headers


def _lengths(headers: tuple[tuple[bytes, bytes], ...]) -> list[bytes]:
    return [value for name, value in headers if name == _LENGTH]
