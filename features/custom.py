"""Features of one's own: Python functions on Ibis tables, in a file that ``[features] custom`` names.

::

    from features.custom import CustomTables, feature_table

    @feature_table("user")
    def evenings(tables: CustomTables):
        events = tables.events
        late = (events.event_time.hour() >= 18).ifelse(1.0, 0.0)
        return events.group_by("user_id").aggregate(user_evening_share=late.mean())

A function gets the events strictly before the cut-off and nothing else of them, so it cannot know the
future of a training window. It returns one row per key of its scope; every other column is a feature.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import ibis
from ibis.common.exceptions import IbisError

from features.columns import MAX_NUMBER, UTC
from features.encoding import end_of_day
from features.errors import PrescoreError, SettingsError
from features.schema import ITEM_ID, USER_ID, FeatureScope

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import ibis.expr.types as ir

    from features.encoding import Encoded
    from features.entity_tables import EntityTable
    from features.sources import Sources

_SCOPE = "prescore_scope"
_NUMBERS = {USER_ID: "user_no", ITEM_ID: "item_no"}

Function = TypeVar("Function", bound="Callable[..., ir.Table]")


@dataclass(frozen=True)
class CustomTables:
    """What a function may look at.

    Attributes:
        events: ``user_id``, ``item_id``, ``event_time`` (timestamp[us, UTC]), ``value`` (float64) and ``age_days``
            (float64, days before the end of the cut-off's day in UTC). Strictly before the cut-off.
        users: ``user_id`` and the users table's own columns, by their names there.
        items: ``item_id``, ``title``, the groups and own columns, likewise.
        cutoff: The instant before which everything is computed.
    """

    events: ir.Table
    users: ir.Table
    items: ir.Table
    cutoff: datetime


def feature_table(scope: str) -> Callable[[Function], Function]:
    """Declare what the features of a function depend on.

    Args:
        scope: ``user`` (rows keyed by ``user_id``), ``item`` (``item_id``), ``pair`` (both), or ``affinity:GROUP``
            (``user_id`` and the group column, named as in ``items.groups``).

    Raises:
        SchemaMismatchError: If there is no such scope.
    """
    parsed = FeatureScope.parse(scope)

    def declare(function: Function) -> Function:
        setattr(function, _SCOPE, parsed)
        return function

    return declare


def load_functions(file: str) -> list[Callable[[CustomTables], Any]]:
    """The declared functions of a file, in the order in which it defines them; none where no file is named.

    Raises:
        SettingsError: If the file is not there, fails, or declares none.
    """
    if not file:
        return []
    path = Path(file)
    name = f"prescore_custom_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if not path.is_file() or spec is None or spec.loader is None:
        raise SettingsError(
            "[features] custom names no Python file", expected="a path such as 'my_features.py'", got=file
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and others look their module up
    try:
        spec.loader.exec_module(module)
    except PrescoreError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{file} cannot be imported", got=f"{type(error).__name__}: {error}", fix="run it with Python"
        ) from error
    finally:
        del sys.modules[name]
    found = [value for value in vars(module).values() if callable(value) and hasattr(value, _SCOPE)]
    if not found:
        raise SettingsError(
            f"{file} declares no features", expected="a function with the decorator feature_table(scope)"
        )
    return found


def custom_hash(file: str) -> str:
    """SHA-256 of the file in hex: other functions are other features; empty where no file is named.

    Raises:
        SettingsError: If there is no such file.
    """
    if not file:
        return ""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError("[features] custom cannot be read", got=str(error)) from error


def scope_of(function: Callable[..., Any]) -> FeatureScope:
    """The scope that a function was declared with."""
    scope: FeatureScope = getattr(function, _SCOPE)
    return scope


def evaluate(function: Callable[[CustomTables], Any], tables: CustomTables) -> ir.Table:
    """What a function returns, checked as far as its columns tell: keys of its scope, and numbers.

    Returns:
        The keys, then the features as float64, on whatever backend the tables are.

    Raises:
        SettingsError: Naming the function and what is wrong.
    """
    name, keys = _name(function), _keys(scope_of(function))
    try:
        found = function(tables)
    except PrescoreError:
        raise
    except Exception as error:
        raise SettingsError(
            f"custom features {name!r} failed", got=f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, ibis.Table):
        raise SettingsError(
            f"custom features {name!r} return no table", expected="an Ibis table", got=type(found).__name__
        )
    missing = [key for key in keys if key not in found.columns]
    features = [column for column in found.columns if column not in keys]
    if missing or not features:
        raise SettingsError(
            f"custom features {name!r} of scope {scope_of(function)} have the wrong columns",
            expected=f"{', '.join(keys)}, and at least one feature",
            got=", ".join(found.columns),
        )
    for column in features:
        kind = found[column].type()
        if not column.isidentifier() or not (kind.is_numeric() or kind.is_boolean()):
            raise SettingsError(
                f"custom features {name!r}: column {column!r} makes no feature",
                expected="a number or truth value, named with letters, digits and underscores",
                got=str(kind),
                fix="a category is a column of the users or items table; or encode it as numbers",
            )
    numbers = {column: _number(found[column]) for column in features}
    return found.select(*keys, **numbers)


@dataclass
class CustomFeatures:
    """The functions of a file, ready to be joined to the standard features of a build."""

    sources: Sources
    coded: Encoded
    cutoff: datetime
    functions: list[Callable[[CustomTables], Any]]
    owners: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for function in self.functions:
            group = scope_of(function).group
            if group and group not in self.sources.items.groups:
                raise SettingsError(
                    f"custom features {_name(function)!r}: there is no group {group!r}",
                    expected=", ".join(self.sources.items.groups) or "groups in [items]",
                    fix="add it to groups in [items]",
                )

    def widen(self, standard: ir.Table, scope: FeatureScope) -> ir.Table:
        """The standard features of a scope with the custom ones beside them.

        Keys of either are kept; where one side has no row, its features are missing.

        Args:
            standard: Keyed by ``user_no``, ``item_no``, the group's code, or two of them.
            scope: Which.

        Raises:
            SettingsError: Naming the function and what is wrong with what it returned.
        """
        for number, function in enumerate(self.functions):
            if scope_of(function) == scope:
                custom = evaluate(function, tables_of(self.sources, self.cutoff))
                self._claim(function, custom, standard)
                made = self._materialize(function, custom, f"custom_{number}")
                standard = _outer_join(standard, made, [_NUMBERS.get(k, k) for k in _keys(scope)])
        return standard

    def _claim(self, function: Callable[..., Any], custom: ir.Table, standard: ir.Table) -> None:
        name, scope = _name(function), scope_of(function)
        for column in (c for c in custom.columns if c not in _keys(scope)):
            owner = self.owners.get(column) or (
                f"the standard features of {scope}" if column in standard.columns else ""
            )
            if owner:
                raise SettingsError(
                    f"custom features {name!r}: the name {column!r} is taken",
                    got=f"by {owner}",
                    fix="rename it",
                )
            self.owners[column] = repr(name)

    def _materialize(self, function: Callable[..., Any], custom: ir.Table, table: str) -> ir.Table:
        """The rows of known keys, in numbers; checked for keys that are there twice, and for infinity."""
        scope, connection = scope_of(function), self.sources.connection
        keys = [_NUMBERS.get(key, key) for key in _keys(scope)]
        features = [column for column in custom.columns if column not in _keys(scope)]
        coded = custom
        if USER_ID in custom.columns:
            coded = coded.join(self.coded.users.select("user_no", USER_ID), USER_ID)
        if ITEM_ID in custom.columns:
            coded = coded.join(self.coded.items.select("item_no", ITEM_ID), ITEM_ID)
        if scope.group:
            codes = connection.table(f"group_{scope.group}_codes")
            codes = codes.rename({scope.group: "value", "code_of_group": "code"})
            coded = coded.join(codes, scope.group).drop(scope.group).rename({scope.group: "code_of_group"})
        try:
            made = connection.create_table(table, coded.select(*keys, *features), overwrite=True)
        except (duckdb.Error, IbisError) as error:
            raise SettingsError(
                f"custom features {_name(function)!r} cannot be computed", got=str(error).splitlines()[0]
            ) from error
        facts = {f: (made[f].abs() > MAX_NUMBER).fill_null(False).sum() for f in features}
        row = made.aggregate(prescore_rows=made.count(), **facts).to_pyarrow().to_pylist()[0]
        distinct = made.select(*keys).distinct().count().to_pyarrow().as_py()
        if distinct != row["prescore_rows"]:
            raise SettingsError(
                f"custom features {_name(function)!r} repeat a key",
                expected=f"one row per {' and '.join(_keys(scope))}",
                got=f"{row['prescore_rows']} rows of {distinct}",
                fix="group by the key",
            )
        infinite = [f for f in features if row[f]]
        if infinite:
            raise SettingsError(
                f"custom features {_name(function)!r}: column {infinite[0]!r} is infinite or huge",
                expected="finite numbers up to 1e30, or null",
                got=f"{row[infinite[0]]} such values",
                fix="divide by nullif(0)",
            )
        return made


def tables_of(sources: Sources, cutoff: datetime) -> CustomTables:
    """What functions may look at, as of a cut-off."""
    moment = ibis.literal(cutoff.isoformat()).cast(UTC)
    events = sources.events.filter(sources.events.event_time < moment)
    origin = ibis.literal(end_of_day(cutoff).isoformat()).cast(UTC)
    age = (origin.epoch_seconds() - events.event_time.epoch_seconds()).cast("float64") / 86_400
    return CustomTables(
        events.mutate(age_days=age),
        _own_names(sources.users),
        _own_names(sources.items),
        cutoff,
    )


def _own_names(entities: EntityTable) -> ir.Table:
    """The table with its own columns by the names they have in the source, where these are free."""
    kept = [column for column in entities.table.columns if column not in entities.own]
    own = {source: plain for plain, source in entities.own.items() if source not in kept}
    return entities.table.select(*kept, **own)


def _outer_join(left: ir.Table, right: ir.Table, keys: list[str]) -> ir.Table:
    left = left.view()  # without it Ibis mistakes the keys of a join inside for those of this one
    joined = left.outer_join(right, keys)
    merged = {key: ibis.coalesce(joined[key], joined[f"{key}_right"]) for key in keys}
    return joined.select(
        **merged,
        **{c: joined[c] for c in left.columns if c not in keys},
        **{c: joined[c] for c in right.columns if c not in keys},
    )


def _keys(scope: FeatureScope) -> list[str]:
    return {
        "user": [USER_ID],
        "item": [ITEM_ID],
        "pair": [USER_ID, ITEM_ID],
        "affinity": [USER_ID, scope.group],
    }[scope.kind]


def _number(column: ir.Value) -> ir.Value:
    return column.ifelse(1.0, 0.0) if column.type().is_boolean() else column.cast("float64")


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", function))
