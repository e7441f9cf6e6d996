"""Documents as HTTP responses of the routes behind FastAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from serving_lookup.answers import JSON, encode
from serving_lookup.problems import FAILURE, TITLES, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec

NO_STORE = {"cache-control": "no-store"}


def respond(document: msgspec.Struct, media_type: bytes = JSON, status: int = 200) -> Response:
    """A document in one of the two media types."""
    return Response(encode(document, media_type), status, headers=NO_STORE, media_type=media_type.decode())


def as_text(headers: list[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """ASGI's headers as Starlette wants them."""
    return ((name.decode(), value.decode("latin-1")) for name, value in headers)


async def answer_problem(request: Request, error: Exception) -> Response:
    """A problem, noted for the log, or any other failure as one of status 500, which the server logs with its trace."""
    problem = error if isinstance(error, Problem) else FAILURE
    if problem is not FAILURE:
        request.state.problem = problem
    return Response(problem.body(), problem.status, dict(as_text(problem.headers)))


async def answer_http_error(request: Request, error: Exception) -> Response:
    """A path or method that is not there, as a problem."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    where = f"{request.method} {request.scope['path'][:200]}"
    response = await answer_problem(
        request,
        Problem(
            status if status in TITLES else 400, "no-such-path", f"There is nothing for {where}; see /docs."
        ),
    )
    response.headers.update(dict(getattr(error, "headers", None) or {}))
    return response
