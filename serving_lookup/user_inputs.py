"""Model inputs of one user, read from the store's feature views or from a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from features.errors import StoreError
from features.online import online_views
from features.schema import PAIR, USER, FeatureColumn, FeatureSchema, affinity
from materialize.publish.feast_format import decode_value, field_hash, timestamp_field
from serving_lookup.parameters import read_json_id
from serving_lookup.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from materialize.publish.feast_format import Value
    from materialize.scoring.user_batch import Keyed
    from serving_lookup.request_bodies import ScoreRequest


@dataclass(frozen=True)
class UserInputs:
    """What a model knows of one user, in the form that ``BoundCatalogue.top_k_one`` takes.

    Attributes:
        user: Value by feature name, a number or a category's text; absent or ``None`` is missing.
        affinity: By group column: groups, and lists of values by feature, aligned with them.
        pairs: Item ids, and lists of values by feature, aligned with them; ``None`` if there are none.
    """

    user: dict[str, Any] = field(default_factory=dict)
    affinity: dict[str, Keyed] = field(default_factory=dict)
    pairs: Keyed | None = None


class InputReader:
    """Reads users for one schema; made once per generation.

    Args:
        schema: Columns of the model.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._user = schema.of(USER)
        self._groups = {group: schema.of(affinity(group)) for group in schema.groups}
        self._pair = schema.of(PAIR)
        self._item_kind = schema.item_id_type
        views = online_views(schema)
        self.fields = [field_hash(view.name, name) for view in views for name in view.fields]
        """Hash fields to read, in the order that :meth:`from_store` expects, then one timestamp per view."""
        self._values = len(self.fields)
        self.fields += [timestamp_field(view.name) for view in views]

    def from_store(self, row: Sequence[bytes | None]) -> UserInputs | None:
        """Inputs of a user as the store holds them; ``None`` if no view knows the user.

        Raises:
            StoreError: If a value is of another type than its feature.
        """
        if all(raw is None for raw in row):
            return None
        values = iter([decode_value(raw) for raw in row[: self._values]])
        user = {c.name: _scalar(c, next(values)) for c in self._user}
        affinities = {}
        for group, columns in self._groups.items():
            found = _keyed(columns, values)
            if found is not None:
                affinities[group] = found
        return UserInputs(user, affinities, _keyed(self._pair, values))

    def from_request(self, asked: ScoreRequest) -> UserInputs:
        """Inputs of a user that a request describes.

        Raises:
            Problem: 422 naming columns that the model does not have, or a value of the wrong type or length.
        """
        _check_names("user", self._user, asked.user)
        for column in self._user:
            _check_value(column, asked.user.get(column.name))
        if unknown := sorted(asked.affinity.keys() - self._groups.keys()):
            raise _unfit(f"the model has no affinity features over {unknown[0]!r}", sorted(self._groups))
        affinities = {
            group: _checked_lists(f"affinity.{group}", self._groups[group], given.keys, given.features)
            for group, given in asked.affinity.items()
        }
        pairs = None
        if asked.pairs is not None:
            items = [read_json_id(item, self._item_kind, "item") for item in asked.pairs.item_ids]
            pairs = _checked_lists("pairs", self._pair, items, asked.pairs.features)
        return UserInputs(dict(asked.user), affinities, pairs)


def _scalar(column: FeatureColumn, value: Value) -> Any:
    if value is not None and isinstance(value, str) != (column.vocabulary is not None):
        raise StoreError(f"feature {column.name!r} is of another type in the store", got=type(value).__name__)
    return value


def _keyed(columns: list[FeatureColumn], values: Iterator[Value]) -> Keyed | None:
    keys = next(values)
    lists = {column.name: next(values) for column in columns}
    if not isinstance(keys, list) or not keys:
        return None
    found: dict[str, Any] = {name: entries for name, entries in lists.items() if entries is not None}
    for name, entries in found.items():
        if not isinstance(entries, list) or len(entries) != len(keys):
            raise StoreError(f"feature {name!r} is no list of {len(keys)} values in the store")
    return keys, found


def _checked_lists(
    where: str, columns: list[FeatureColumn], keys: Sequence[object], given: Mapping[str, Sequence[Any]]
) -> Keyed:
    _check_names(where, columns, given)
    if len(set(keys)) != len(keys):
        raise _unfit(f"{where} holds a key twice", [])
    for column in columns:
        entries = given.get(column.name, ())
        if column.name in given and len(entries) != len(keys):
            raise _unfit(f"{where}.{column.name} has {len(entries)} values for {len(keys)} keys", [])
        for value in entries:
            _check_value(column, value)
    return keys, given


def _check_names(where: str, columns: list[FeatureColumn], given: Mapping[str, object]) -> None:
    known = [c.name for c in columns]
    if unknown := sorted(given.keys() - set(known)):
        raise _unfit(f"{where} has no feature {unknown[0]!r} in this model", known)


def _check_value(column: FeatureColumn, value: object) -> None:
    if value is not None and isinstance(value, str) != (column.vocabulary is not None):
        kind = "a number" if column.vocabulary is None else "text"
        raise _unfit(f"feature {column.name!r} must be {kind}, not {type(value).__name__}", [])


def _unfit(what: str, known: Sequence[str]) -> Problem:
    return Problem(
        422, "features", f"In the body, {what}." + (f" It has: {', '.join(known)}." if known else "")
    )
