"""Answers as Feast's feature server does, for the views of users that Prescore publishes.

Same requests, same answers as ``POST /get-online-features`` of ``feast serve`` on the same store, its ways included: a
feature that is not there has value null, status PRESENT and the year 1970. Features of a view come in the order in which
they were asked for; Feast's is that of a set, so its clients go by the names anyway. Source: ``feature_server.py``,
``feature_server_utils.py`` and ``utils.py`` of Feast 0.67.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Any

import msgspec

from features.online import online_views
from features.schema import USER_ID
from materialize.publish.feast_format import decode_timestamp, decode_value, field_hash, timestamp_field
from serving_lookup.activation import PREDICTION_FIELDS
from serving_lookup.parameters import read_json_id
from serving_lookup.problems import Problem
from serving_lookup.store import accepted, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from materialize.publish.feast_format import Value
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.store import Store

PRESENT = "PRESENT"
_NEVER = "1970-01-01T00:00:00Z"


class OnlineFeaturesRequest(msgspec.Struct):
    """What Feast's server takes; what it ignores is ignored.

    Attributes:
        entities: Ids under ``user_id``.
        features: ``view:feature`` each.
        feature_service: The model's name in the features' stead: the live predictions.
        full_feature_names: Whether names in the answer begin with their view.
    """

    entities: dict[str, list[Any]]
    features: list[str] = []
    feature_service: str | None = None
    full_feature_names: bool = False


class FeatureVector(msgspec.Struct, frozen=True):
    """One feature of all the users that were asked for."""

    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class FeatureNames(msgspec.Struct, frozen=True):
    """What the vectors are, in their order."""

    feature_names: list[str]


class OnlineFeatures(msgspec.Struct, frozen=True):
    """Feast's answer: ids first, then the features, view by view."""

    results: list[FeatureVector]
    metadata: FeatureNames


async def read_online_features(
    store: Store, live: LiveGeneration, asked: OnlineFeaturesRequest, most: int
) -> OnlineFeatures:
    """Read features of users in one round trip.

    Args:
        store: Where they are.
        live: Knows the views.
        asked: The request.
        most: Users that may be asked for.

    Raises:
        Problem: 404 if a view, feature or service is not there, 413 if there are too many users, 422 if the request
            does not hang together.
        StoreError: If the store does not answer.
    """
    wanted = _wanted(live, asked)
    given = asked.entities.get(USER_ID)
    if given is None or len({len(values) for values in asked.entities.values()}) != 1:
        raise Problem(422, "entities", "entities must hold a list of user_id, all lists of one length.")
    if len(given) > most:
        raise Problem(413, "batch-too-large", f"At most {most} users; this request has {len(given)}.")
    users = [read_json_id(user, live.artifact.schema.user_id_type, "user") for user in given]
    fields = [part for view, names in wanted.items() for part in _fields(view, names)]
    replies = await store.send_all([pack(b"HMGET", live.key(user), *fields) for user in users])
    rows: list[list[bytes | None]] = [accepted(reply) for reply in replies]
    names, vectors = [USER_ID], [_vector(users, [_NEVER] * len(users))]
    at = 0
    for view, features in wanted.items():
        told = [_timestamp(row[at + len(features)]) for row in rows]
        for place, feature in enumerate(features, at):
            names.append(f"{view}__{feature}" if asked.full_feature_names else feature)
            vectors.append(_vector([_plain(decode_value(row[place])) for row in rows], told))
        at += len(features) + 1
    return OnlineFeatures(vectors, FeatureNames(names))


def _wanted(live: LiveGeneration, asked: OnlineFeaturesRequest) -> dict[str, list[str]]:
    """Features by view, both in the order in which they are first named."""
    model = live.pointer.model
    known = {view.name: list(view.fields) for view in online_views(live.artifact.schema)}
    known |= {f"{model}_{slot}": list(PREDICTION_FIELDS) for slot in ("a", "b")}
    if asked.feature_service is not None:
        if asked.feature_service != model:
            raise Problem(404, "no-such-service", f"There is no feature service but {model!r}.")
        return {live.pointer.view: known[live.pointer.view]}
    wanted: dict[str, list[str]] = {}
    taken = set()
    for reference in asked.features:
        view, _, feature = reference.partition(":")
        if feature not in known.get(view, ()):
            raise Problem(
                404, "no-such-feature", f"There is no {reference[:200]!r}; the views are {', '.join(known)}."
            )
        name = reference if asked.full_feature_names else feature
        if name in taken:
            raise Problem(
                422, "features", f"Two features are called {name!r}; ask for one, or with full_feature_names."
            )
        taken.add(name)
        wanted.setdefault(view, []).append(feature)
    if not wanted:
        raise Problem(422, "features", "Name features as view:feature, or a feature_service.")
    return wanted


def _fields(view: str, names: Sequence[str]) -> list[bytes]:
    return [*(field_hash(view, name) for name in names), timestamp_field(view)]


def _vector(values: list[Any], timestamps: list[str]) -> FeatureVector:
    return FeatureVector(values, [PRESENT] * len(values), timestamps)


def _plain(value: Value) -> Any:
    """A value as JSON has it; numbers that are none are text, as protobuf writes them."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _timestamp(raw: bytes | None) -> str:
    """RFC 3339 with as many digits as are needed, in threes."""
    moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        microseconds=decode_timestamp(raw) if raw else 0
    )
    digits = {0: "", 3: f".{moment.microsecond // 1000:03d}", 6: f".{moment.microsecond:06d}"}
    needed = 0 if not moment.microsecond else 6 if moment.microsecond % 1000 else 3
    return f"{moment:%Y-%m-%dT%H:%M:%S}{digits[needed]}Z"
