"""The OpenAPI description of every route, made from the documents themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from serving_lookup.answers import (
    JSON,
    MESSAGE_PACK,
    Answer,
    BatchAnswer,
    Contribution,
    Explanation,
    GenerationList,
    Liveness,
    ModelList,
    PairScore,
    Readiness,
    SeenAnswer,
)
from serving_lookup.online_features import FeatureNames, FeatureVector, OnlineFeatures, OnlineFeaturesRequest
from serving_lookup.problems import ProblemDocument
from serving_lookup.request_bodies import BatchRequest, ScoreRequest, SeenItems

if TYPE_CHECKING:
    from collections.abc import Sequence

_REF: Final = "#/components/schemas/{name}"
_DOCUMENTS: Final = (
    Answer,
    BatchAnswer,
    BatchRequest,
    Contribution,
    Explanation,
    FeatureNames,
    FeatureVector,
    GenerationList,
    Liveness,
    ModelList,
    OnlineFeatures,
    OnlineFeaturesRequest,
    PairScore,
    ProblemDocument,
    Readiness,
    ScoreRequest,
    SeenAnswer,
    SeenItems,
)

MODEL: Final = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "Name of the model.",
    "schema": {"type": "string"},
}

ITEM: Final = {
    "name": "item",
    "in": "query",
    "required": True,
    "description": "Id of the item, as in the tables, percent-encoded as UTF-8 where it is text.",
    "schema": {"type": "string"},
}


def path_id(name: str) -> dict[str, Any]:
    """A path parameter that is an id."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": "As in the tables, percent-encoded as UTF-8 where it is text.",
        "schema": {"type": "string"},
    }


def list_parameters(max_k: int) -> list[dict[str, Any]]:
    """Query parameters of a list."""
    return [
        {
            "name": "k",
            "in": "query",
            "description": "Most items to return.",
            "schema": {"type": "integer", "minimum": 1, "maximum": max_k, "default": 20},
        },
        {
            "name": "exclude",
            "in": "query",
            "description": "Ids of items to leave out, separated by commas; a comma in an id is %2C.",
            "schema": {"type": "string"},
        },
        {
            "name": "only",
            "in": "query",
            "description": "Ids of the only items that may be in the list, as in exclude.",
            "schema": {"type": "string"},
        },
        {
            "name": "at_most",
            "in": "query",
            "description": "Most items that share a value of a group column, such as category:3.",
            "schema": {"type": "string"},
        },
        {
            "name": "fields",
            "in": "query",
            "description": "What else to say of each item: title, or a group column, separated by commas.",
            "schema": {"type": "string"},
        },
    ]


def operation(
    answer: type[msgspec.Struct],
    problems: Sequence[int],
    *,
    parameters: Sequence[dict[str, Any]] = (),
    body: type[msgspec.Struct] | None = None,
    packed: bool = False,
) -> dict[str, Any]:
    """What FastAPI's ``openapi_extra`` adds to a route.

    Args:
        answer: Document of a 200.
        problems: Statuses that come with a problem document.
        parameters: Path and query parameters.
        body: Document of the request.
        packed: Whether the answer can be had as MessagePack too.
    """
    media = [JSON.decode(), MESSAGE_PACK.decode()] if packed else [JSON.decode()]
    content = {name: {"schema": {"$ref": _REF.format(name=answer.__name__)}} for name in media}
    responses: dict[str, Any] = {
        "200": {"description": (answer.__doc__ or "").split("\n", 1)[0], "content": content}
    }
    for status in problems:
        reference = {"schema": {"$ref": _REF.format(name=ProblemDocument.__name__)}}
        responses[str(status)] = {
            "description": "A problem.",
            "content": {"application/problem+json": reference},
        }
    extra: dict[str, Any] = {"parameters": list(parameters), "responses": responses}
    if body is not None:
        reference = {"schema": {"$ref": _REF.format(name=body.__name__)}}
        extra["requestBody"] = {"required": True, "content": {JSON.decode(): reference}}
    return extra


def components() -> dict[str, Any]:
    """JSON schemas of all documents, by name."""
    return dict(msgspec.json.schema_components(_DOCUMENTS, ref_template=_REF)[1])
