"""Reads the users or the items table: one row per entity, its own columns as numbers or text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import duckdb
import ibis

from features import columns
from features.errors import SourceError
from features.settings import ItemsSettings, UsersSettings
from features.table_files import TableFiles, explain, open_table

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

    from features.columns import IdType

_KEYS = {"users": "user_id", "items": "item_id"}
# A group of this name would clash with a key column, or its features with those of another scope.
_RESERVED = {"user", "item", "pair", "user_id", "item_id", "user_no", "item_no", "user_hash", "too_long"} | {
    "event_timestamp", "candidate", "events", "title", "last_event", "keys", "item_ids",
}  # fmt: skip


@dataclass(frozen=True)
class EntityTable:
    """An entity's table in one form.

    Attributes:
        role: ``users`` or ``items``.
        table: ``user_id`` or ``item_id``, then ``title`` (items: string or null), the groups (string) and
            the own columns (float64 or string).
        own: Own columns that may become features: name in the table → name in the source.
        groups: Group columns: name in the table → name in the source.
        listed: Whether the settings name a table; if not, the entities are those of the events.
        rows: Rows of the table.
    """

    role: Literal["users", "items"]
    table: ir.Table
    own: dict[str, str]
    groups: dict[str, str]
    listed: bool
    rows: int

    @classmethod
    def of_events(
        cls, connection: Backend, events: ir.Table, role: Literal["users", "items"], id_type: IdType
    ) -> EntityTable:
        """The entities of the events, where they have no table of their own."""
        del id_type
        key = _KEYS[role]
        table = events.select(key).distinct()
        if role == "items":
            table = table.mutate(title=ibis.null("string"))
        made = connection.create_table(role, table)
        return cls(role, made, {}, {}, listed=False, rows=made.count().to_pyarrow().as_py())


def plain_name(name: str) -> str:
    """A column's name as it appears in features, files and views: letters, digits and underscores."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "column"


def _group_name(name: str) -> str:
    plain = plain_name(name)
    return f"group_{plain}" if plain in _RESERVED or plain.startswith("own_") else plain


def read_entities(
    connection: Backend,
    settings: UsersSettings | ItemsSettings,
    role: Literal["users", "items"],
    id_type: IdType,
) -> EntityTable | None:
    """Read an entity's table, or give ``None`` where the settings name none.

    Raises:
        SourceError: If an id is missing, too long or there twice, a column is missing or unfit, a number
            is infinite, or the table is empty.
    """
    if not settings.path:
        return None
    files = open_table(connection, settings.path, role)
    key = _KEYS[role]
    raw_id = columns.require(files, settings.id, f"{role}.id")
    chosen: dict[str, ir.Value] = {
        key: columns.as_id(raw_id, id_type),
        "too_long": columns.too_long(raw_id, id_type),
    }
    groups: dict[str, str] = {}
    title = ""
    if isinstance(settings, ItemsSettings):
        title = settings.title
        chosen["title"] = (
            columns.require(files, title, "items.title").cast("string") if title else ibis.null("string")
        )
        for name in settings.groups:
            plain = _free_name(_group_name(name), chosen, role)
            groups[plain] = name
            chosen[plain] = columns.require(files, name, "items.groups").cast("string").nullif("")
    own: dict[str, str] = {}
    wanted = settings.columns
    for name in files.table.columns if wanted is None else wanted:
        if name == settings.id or (wanted is None and name == title):
            continue
        value = _own_column(files, name, role, explicit=wanted is not None)
        if value is not None:
            plain = _free_name(f"own_{plain_name(name)}", chosen, role)
            own[plain] = name
            chosen[plain] = value
    try:
        table = connection.create_table(role, files.table.select(**chosen))
    except duckdb.Error as error:
        raise explain(error, f"the {role}") from error
    rows = _check_ids(table, role, key, settings.path)
    _check_finite(table, role, own)
    return EntityTable(role, table.drop("too_long"), own, groups, listed=True, rows=rows)


def _free_name(name: str, taken: dict[str, ir.Value], role: str) -> str:
    if name in taken:
        raise SourceError(
            f"two columns of the {role} would have the same name {name!r}",
            expected="names that differ in letters and digits",
            fix=f"rename one of them, or list the columns to use in [{role}]",
        )
    return name


def _own_column(files: TableFiles, name: str, role: str, *, explicit: bool) -> ir.Value | None:
    """The column as float64 or string; ``None`` for a type that makes no feature."""
    column = columns.require(files, name, f"{role}.columns")
    kind = column.type()
    if files.is_text:
        number = column.try_cast("float64")
        is_number = (number.notnull() | column.isnull()).all() & number.notnull().any()
        if name not in files.declared_text and is_number.fill_null(False).to_pyarrow().as_py():
            return number
        return column
    if kind.is_boolean():
        return column.cast("int8").cast("float64")
    if kind.is_numeric():
        return column.cast("float64")
    if kind.is_string():
        return column.nullif("")
    if explicit:
        raise SourceError(
            f"column {name!r} of the {role} makes no feature",
            expected="numbers, truth values or text",
            got=str(kind),
            fix=f"leave it out of columns in [{role}]",
        )
    return None


def _check_ids(table: ir.Table, role: str, key: str, path: str) -> int:
    facts = table.aggregate(
        rows=table.count(),
        missing=table[key].isnull().sum(),
        too_long=table.too_long.sum(),
        distinct=table[key].nunique(),
    )
    row = facts.to_pyarrow().to_pylist()[0]
    if not row["rows"]:
        raise SourceError(
            f"the {role} are empty", expected="a row for each", got=f"0 rows in {path}", fix="check the file"
        )
    if row["too_long"]:
        raise SourceError(
            f"{row['too_long']} ids of the {role} are too long",
            expected=f"at most {columns.MAX_ID_BYTES} bytes of UTF-8",
        )
    if row["missing"]:
        raise SourceError(
            f"{row['missing']} rows of the {role} have no id",
            expected="an id in each row",
            fix=f"mend {path}, or the id setting",
        )
    if row["distinct"] != row["rows"]:
        twice = (
            table.group_by(key)
            .having(lambda t: t.count() > 1)
            .aggregate(n=lambda t: t.count())
            .order_by(key)
            .limit(3)
        )
        shown = ", ".join(f"{str(r[key])[:80]!r} {r['n']} times" for r in twice.to_pyarrow().to_pylist())
        raise SourceError(
            f"{row['rows'] - row['distinct']} rows of the {role} repeat an id",
            expected=f"one row per {key}",
            got=shown,
            fix=f"keep one row of each in {path}",
        )
    return int(row["rows"])


def _check_finite(table: ir.Table, role: str, own: dict[str, str]) -> None:
    numbers = [name for name in own if table[name].type().is_floating()]
    if not numbers:
        return
    counts = (
        table.aggregate(
            **{
                name: ((table[name].abs() > columns.MAX_NUMBER) & ~table[name].isnan()).sum()
                for name in numbers
            }
        )
        .to_pyarrow()
        .to_pylist()[0]
    )
    for name in numbers:
        if counts[name]:
            raise SourceError(
                f"column {own[name]!r} of the {role} has {counts[name]} infinite or huge values",
                expected="finite numbers up to 1e30; an empty cell or NaN is a missing value",
                fix=f"mend it, or leave it out of columns in [{role}]",
            )
