"""Decides what a source column holds, and parses it: ids, times, numbers.

Every function takes a column of :class:`features.table_files.TableFiles` and gives an Ibis expression
in the one form that the rest of Prescore knows; what cannot be parsed becomes null, to be counted by
the caller.
"""

from __future__ import annotations

import difflib
import zoneinfo
from typing import TYPE_CHECKING, Literal

import ibis
import ibis.expr.datatypes as dt

from features.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis.expr.types as ir

    from features.table_files import TableFiles

IdType = Literal["int64", "string"]
IdKind = Literal["int64", "string", "numerals", "text"]
UTC = dt.Timestamp(timezone="UTC", scale=6)
MAX_NUMBER = 1e30
"""Larger numbers are refused: sums of them must fit a float32."""
MAX_ID_BYTES = 512
"""Longer ids are refused: an id is part of a key in the store and of a URL."""

_CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
# A zone follows a time of day; without one, "-01" ends the date 2020-01-01.
_ZONED = r":\d\d(\.\d+)?\s*([Zz]|[+-]\d\d(:?\d\d)?)$"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp()), UTC))  # type: ignore[untyped-decorator]
def _in_zone(zone: str, wall_time: object) -> object:
    """DuckDB's instant of a wall time in a zone."""


@ibis.udf.scalar.builtin(name="strlen", signature=((dt.string,), dt.int64))  # type: ignore[untyped-decorator]
def _bytes_of(text: str) -> int:  # type: ignore[empty-body]
    """DuckDB's length of a text in bytes of UTF-8."""


@ibis.udf.scalar.builtin(name="make_timestamptz", signature=((dt.int64,), UTC))  # type: ignore[untyped-decorator]
def _from_microseconds(microseconds: int) -> object:
    """DuckDB's instant, counted from 1970."""


def require(files: TableFiles, name: str, key: str) -> ir.Column:
    """The column that a setting names.

    Args:
        files: The table.
        name: Its column.
        key: The setting, such as ``events.user``, for the message.

    Raises:
        SourceError: If there is no such column; the message offers the closest.
    """
    if name in files.table.columns:
        return files.table[name]
    lower = {c.lower(): c for c in files.table.columns}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    section, _, field = key.partition(".")
    many = field in {"groups", "columns"}
    hint = (
        (f"{lower[close[0]]!r} in {field}" if many else f"{field} = {lower[close[0]]!r}")
        if close
        else f"one of them as {field}"
    )
    raise SourceError(
        f"the {files.role} have no column {name!r}",
        expected=f"the column that {key} names",
        got=f"columns {', '.join(files.table.columns)}",
        fix=f"set {hint} in [{section}] of prescore.toml"
        + (f" (did you mean {lower[close[0]]!r}?)" if close else ""),
    )


def id_kind(files: TableFiles, name: str, key: str) -> IdKind:
    """What an id column holds: typed numbers or strings, or text that is all whole numbers, or other text.

    Raises:
        SourceError: If the type cannot be an id.
    """
    column = require(files, name, key)
    kind = column.type()
    if files.is_text:
        other = (~column.re_search(_CANONICAL_INTEGER)).any().fill_null(False).to_pyarrow().as_py()
        return "text" if other else "numerals"
    if kind.is_integer():
        return "int64"
    if kind.is_string() or kind.is_uuid():
        return "string"
    if kind.is_floating():  # what pandas makes of whole numbers once one is missing
        whole = column.cast("int64").cast("float64") == column
        if whole.all().fill_null(True).to_pyarrow().as_py():
            return "int64"
    raise SourceError(
        f"column {name!r} of the {files.role} cannot be an id",
        expected="whole numbers or text",
        got=str(kind),
        fix=f"convert it, or name another column as {key}",
    )


def common_id_type(kinds: Mapping[str, IdKind]) -> IdType:
    """The one type of an entity's ids in all its tables.

    Args:
        kinds: What :func:`id_kind` said, by setting (``events.user``, ``users.id``).

    Raises:
        SourceError: If one table has numbers and another text.
    """
    found = set(kinds.values())
    if "int64" in found and found & {"string", "text"}:
        raise SourceError(
            "ids are of mixed type",
            expected="whole numbers in all tables, or text in all tables",
            got=", ".join(
                f"{key}: {'whole numbers' if kind == 'int64' else 'text'}" for key, kind in kinds.items()
            ),
            fix="convert one of the columns, so that equal ids are equal values",
        )
    return "string" if found & {"string", "text"} else "int64"


def as_id(column: ir.Column, id_type: IdType) -> ir.Column:
    """The column as ids; null where it is empty or, for text, longer than ``MAX_ID_BYTES``."""
    if id_type == "int64":
        return column.try_cast("int64")
    text = column.cast("string")
    return ibis.cases((_bytes_of(text).between(1, MAX_ID_BYTES), text), else_=ibis.null("string"))


def too_long(column: ir.Column, id_type: IdType) -> ir.BooleanValue:
    """Whether an id has more than ``MAX_ID_BYTES`` bytes of UTF-8."""
    if id_type == "int64":
        return ibis.literal(False)
    return _bytes_of(column.cast("string")) > MAX_ID_BYTES


def as_time(files: TableFiles, name: str, *, zone: str, unit: str) -> ir.TimestampColumn:
    """The column as instants in UTC with microseconds; null where it is no time of the years 1 to 9999.

    Raises:
        SourceError: If the type is no time, or a time has no zone and ``events.timezone`` is unset.
    """
    time = _instants(files, name, zone, unit)
    first, last = (ibis.literal(text).cast(UTC) for text in ("0001-01-02T00:00:00Z", "9999-12-30T00:00:00Z"))
    return ibis.cases((time.between(first, last), time), else_=ibis.null(UTC))


def _instants(files: TableFiles, name: str, zone: str, unit: str) -> ir.TimestampColumn:
    column = require(files, name, "events.time")
    kind = column.type()
    if zone and zone not in zoneinfo.available_timezones():
        raise SourceError(
            "unknown zone",
            expected="an IANA name such as 'UTC' or 'Europe/Berlin'",
            got=zone,
            fix="correct events.timezone",
        )
    if kind.is_timestamp():
        if kind.timezone is not None:
            return column.cast(UTC)
        return _localize(column.cast(dt.Timestamp(scale=6)), files, name, zone)
    if kind.is_date():
        return _localize(column.cast(dt.Timestamp(scale=6)), files, name, zone)
    number = column.try_cast("float64") if files.is_text or kind.is_numeric() else None
    if number is not None and (kind.is_numeric() or _all_finite(number)):
        if not unit:
            raise SourceError(
                f"column {name!r} of the events holds numbers, not times",
                expected="timestamps, or ISO 8601 text",
                got=f"{kind}, such as {_example(column)}",
                fix=f"set events.time_unit = {guess_unit(number.max().to_pyarrow().as_py())!r} if it counts from 1970",
            )
        return _from_microseconds((number * (1_000_000 / _PER_SECOND[unit])).round().cast("int64"))
    if not kind.is_string():
        raise SourceError(
            f"column {name!r} of the events is no time", expected="timestamps, or ISO 8601 text", got=str(kind),
            fix="name another column as events.time",
        )  # fmt: skip
    zoned = column.re_search(_ZONED)
    wall = column.try_cast(dt.Timestamp(scale=6))
    if not zone and (~zoned & wall.notnull()).any().fill_null(False).to_pyarrow().as_py():
        _refuse_naive(files, name, _example(column.as_table().filter(~zoned)[name]))
    return ibis.cases((zoned, column.try_cast(UTC)), else_=_in_zone(zone or "UTC", wall))


def _all_finite(number: ir.FloatingColumn) -> bool:
    finite = number.notnull() & ~number.isinf()
    return bool(finite.all().fill_null(False).to_pyarrow().as_py())


def guess_unit(largest: float | None) -> str:
    """Unit of a time that counts from 1970, by its size: seconds until the year 5138."""
    size = abs(largest or 0)
    return next((unit for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < limit), "ns")


def _localize(column: ir.Column, files: TableFiles, name: str, zone: str) -> ir.TimestampColumn:
    if not zone:
        _refuse_naive(files, name, _example(column))
    return column.cast(UTC) if zone == "UTC" else _in_zone(zone, column)


def _refuse_naive(files: TableFiles, name: str, example: object) -> None:
    raise SourceError(
        f"times in column {name!r} of the {files.role} carry no zone",
        expected="times with a zone, such as 2024-05-01T12:00:00Z",
        got=f"such as {example}",
        fix="set events.timezone = 'UTC' (or the zone they are in) in prescore.toml",
    )


def _example(column: ir.Column) -> object:
    table = column.name("example").as_table()
    values = table.filter(table.example.notnull()).limit(1).to_pyarrow()["example"].to_pylist()
    return values[0] if values else "nothing"
