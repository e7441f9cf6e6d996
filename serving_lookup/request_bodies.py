"""Request bodies as typed documents, read within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from serving_lookup.parameters import DEFAULT_K, MAX_EXCLUDED, checked_parameters
from serving_lookup.problems import Problem, bad_request

if TYPE_CHECKING:
    from fastapi import Request

    from features.schema import FeatureSchema
    from serving_lookup.parameters import ListParameters

JsonId = int | str
Value = float | int | bool | str | None
Body = TypeVar("Body")


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Lists of many users in one round trip to the store.

    An entry of ``users`` that is no id is answered by a problem of its own.
    """

    users: list[Any]
    k: int = DEFAULT_K
    exclude: Annotated[list[JsonId], msgspec.Meta(max_length=MAX_EXCLUDED)] = []
    only: Annotated[list[JsonId], msgspec.Meta(max_length=MAX_EXCLUDED)] | None = None
    at_most: dict[str, int] = {}
    fields: list[str] = []


class SeenItems(msgspec.Struct, forbid_unknown_fields=True):
    """Items that a user has just seen."""

    item_ids: Annotated[list[JsonId], msgspec.Meta(min_length=1, max_length=MAX_EXCLUDED)]


class AffinityValues(msgspec.Struct, forbid_unknown_fields=True):
    """Features of a user per value of one group column: lists as long as ``keys``; null is missing."""

    keys: list[str]
    features: dict[str, list[Value]]


class PairValues(msgspec.Struct, forbid_unknown_fields=True):
    """Features of a user per item: lists as long as ``item_ids``; null is missing."""

    item_ids: list[JsonId]
    features: dict[str, list[Value]]


class ScoreRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Features of a user whom nobody has seen; what is left out is missing."""

    user: dict[str, Value] = {}
    affinity: dict[str, AffinityValues] = {}
    pairs: PairValues | None = None
    k: int = DEFAULT_K
    exclude: Annotated[list[JsonId], msgspec.Meta(max_length=MAX_EXCLUDED)] = []
    only: Annotated[list[JsonId], msgspec.Meta(max_length=MAX_EXCLUDED)] | None = None
    at_most: dict[str, int] = {}
    fields: list[str] = []


def parameters_of(asked: BatchRequest | ScoreRequest, schema: FeatureSchema, max_k: int) -> ListParameters:
    """How the lists of a request are asked for.

    Raises:
        Problem: Naming what is wrong.
    """
    return checked_parameters(
        schema,
        max_k,
        k=asked.k,
        exclude=asked.exclude,
        only=asked.only,
        at_most=asked.at_most,
        fields=asked.fields,
    )


async def read_body(request: Request, kind: type[Body], limit: int) -> Body:
    """The body as a document of a kind.

    Raises:
        Problem: 413 if it is longer than ``limit`` bytes, 415 if it is not JSON by its type, 400 if it is not JSON,
            422 if it is JSON of another shape.
    """
    return decode_body(await read_bytes(request, limit), kind)


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body as it came; problems as of :func:`check_body`."""
    chunks, size = [], 0
    content_type = request.headers.get("content-type", "").encode("latin-1")
    check_body(content_type, size, limit)
    async for chunk in request.stream():
        size += len(chunk)
        check_body(content_type, size, limit)
        chunks.append(chunk)
    return b"".join(chunks)


def check_body(content_type: bytes, size: int, limit: int) -> None:
    """Let a body in.

    Raises:
        Problem: 413 if it is longer than ``limit`` bytes, 415 if it is not JSON by its type.
    """
    given = content_type.split(b";", 1)[0].strip().lower()
    if given not in {b"", b"application/json"}:
        name = given[:80].decode("latin-1")
        raise Problem(415, "media-type", f"The body must be application/json, not {name!r}.")
    if size > limit:
        raise Problem(
            413, "body-too-large", f"The body has more than {limit} bytes; lookup.max_body_bytes sets it."
        )


def decode_body(raw: bytes, kind: type[Body]) -> Body:
    """The body as a document of a kind.

    Raises:
        Problem: 400 if it is not JSON, 422 if it is JSON of another shape.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "body", f"The body does not fit: {error}.") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request("json", "The body is not JSON", got=error) from None
