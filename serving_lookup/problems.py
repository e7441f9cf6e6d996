"""Errors as RFC 9457 problem documents: what was expected, what came, what to do."""

from __future__ import annotations

from typing import Final

import msgspec

CONTENT_TYPE: Final = b"application/problem+json"

TITLES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Request too slow",
    413: "Body too large",
    415: "Unsupported media type",
    422: "The body does not fit",
    431: "Request header fields too large",
    500: "Internal error",
    501: "Not implemented",
    503: "Not available now",
}


class ProblemDocument(msgspec.Struct, frozen=True):
    """An error as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's own word; it is an answer, not a fault of the program
    """A request that is answered with a problem document.

    Args:
        status: HTTP status, one of :data:`TITLES`.
        code: Short name that a program can test, such as ``unknown-parameter``.
        detail: One paragraph for a person.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(self, status: int, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after = status, code, detail, retry_after

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers, the length excepted."""
        headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        return headers

    @property
    def document(self) -> ProblemDocument:
        """The members of RFC 9457, section 3.1; ``type`` is a URN, there is no page behind it."""
        return ProblemDocument(
            f"urn:prescore:problem:{self.code}", TITLES[self.status], self.status, self.detail
        )

    def body(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)


def bad_request(code: str, what: str, *, expected: str = "", got: object = None) -> Problem:
    """A 400 that says what was expected and, cut to a readable length, what came."""
    parts = [what.rstrip(".") + "."]
    if expected:
        parts.append(f"Expected: {expected}.")
    if got is not None:
        text = str(got)
        parts.append(f"Got: {text[:80]}{'…' if len(text) > 80 else ''}.")
    return Problem(400, code, " ".join(parts))


def unavailable(code: str, detail: str, *, retry_after: int = 1) -> Problem:
    """A 503 with a time after which to try again."""
    return Problem(503, code, detail, retry_after=retry_after)


def no_such_path(path: bytes) -> Problem:
    """A 404 for a path that leads nowhere."""
    return Problem(404, "no-such-path", f"There is nothing at {path[:200].decode('latin-1')}; see /docs.")


def no_such_model(name: bytes) -> Problem:
    """A 404 for a model that is not served."""
    return Problem(
        404, "no-such-model", f"There is no model {name[:100].decode('latin-1')!r}; see /v1/models."
    )


FAILURE: Final = Problem(500, "internal", "The service failed; its log says why.")
