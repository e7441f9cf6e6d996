"""Guesses from the files in a folder which is the events, users and items table, and what their columns are.

Each guess comes with its reason, for the person who reads the settings that are written from it. Names
decide first; where they say nothing, what the columns hold does: ids repeat in the events and not in
their own table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ibis

from features.columns import UTC, as_time, guess_unit
from features.entity_tables import plain_name
from features.errors import SourceError
from features.settings import CandidateSettings, FeatureSettings
from features.table_files import TableFiles, ending, open_table

if TYPE_CHECKING:
    from pathlib import Path

    from ibis.backends.duckdb import Backend

Settings = dict[str, dict[str, Any]]

_USER = ("user", "customer", "household", "member", "visitor", "client", "account", "person", "buyer", "uid")
_ITEM = (
    "item",
    "product",
    "article",
    "movie",
    "film",
    "book",
    "song",
    "track",
    "sku",
    "content",
    "video",
    "asin",
)
_TIME = ("timestamp", "event_time", "datetime", "time", "date", "created", "occurred", "ts", "at", "when")
_VALUE = (
    "rating",
    "stars",
    "score",
    "sales_value",
    "amount",
    "price",
    "revenue",
    "spend",
    "total",
    "value",
    "quantity",
)
_TITLE = ("title", "name", "label", "headline", "product_type", "description")
_ID_WORDS = {"id", "key", "no", "number", "code"}
_RATING = ("rating", "stars")
_EVENT_FILES = (
    "event",
    "transaction",
    "order",
    "purchase",
    "interaction",
    "rating",
    "click",
    "view",
    "inter",
    "log",
    "sale",
)
MAX_GROUP_VALUES = 1_000
"""A group column with more values has too few events in each."""
_MIN_GROUP_VALUES = 2
_KNOWN_SHARE = 0.95
_LONGER_WINDOWS = (180, 365, 730, 1095, 1825)


@dataclass(frozen=True)
class _Table:
    files: TableFiles
    path: Path
    rows: int

    @property
    def columns(self) -> list[str]:
        return list(self.files.table.columns)


def guess_settings(folder: Path) -> tuple[Settings, list[str]]:
    """Look at the data files of a folder and guess the settings of the three tables.

    Args:
        folder: Its Parquet or text files are looked at, not those of folders below.

    Returns:
        Sections of ``prescore.toml`` (events, users, items; only keys that differ from the defaults), and the
        reason for each guess, a sentence each.

    Raises:
        SourceError: If there is no such folder, or no file has a user, an item and a time; the message says what was found.
    """
    if not folder.is_dir():
        raise SourceError(
            f"there is no folder {folder}",
            expected="the folder that holds the files of events, users and items",
            fix="correct its name",
        )
    paths = sorted(
        p for p in folder.iterdir() if p.is_file() and ending(p) and not p.name.startswith((".", "_"))
    )
    if not paths:
        raise SourceError(
            f"there are no tables in {folder}",
            expected="Parquet or CSV files of events, users and items",
            fix="run this in the folder that holds them",
        )
    connection = ibis.duckdb.connect()
    try:
        tables = [_open(connection, path) for path in paths]
        return _guess(tables)
    finally:
        connection.disconnect()


def _open(connection: Backend, path: Path) -> _Table:
    files = open_table(connection, str(path), "table")
    return _Table(files, path, int(files.table.count().to_pyarrow().as_py()))


def _guess(tables: list[_Table]) -> tuple[Settings, list[str]]:
    reasons: list[str] = []
    events = _events_of(tables)
    user, item = _column(events, _USER), _column(events, _ITEM)
    time = _time_column(events)
    found: dict[str, Any] = {"path": events.path.name, "user": user, "item": item, "time": time}
    reasons.append(
        f"{events.path.name} is the events table: it has {user!r}, {item!r} and the time {time!r} ({events.rows:,} rows)"
    )
    others = [t for t in tables if t is not events]
    settings: Settings = {"events": found}
    _guess_time(events, time, found, reasons)
    _guess_value(events, found, reasons)
    for role, words, key in (("users", _USER, user), ("items", _ITEM, item)):
        table, id_column = _entity_table(others, words, str(key))
        if table is None:
            reasons.append(f"no file lists the {role}: they are those of the events")
            continue
        others.remove(table)
        settings[role] = {"path": table.path.name, "id": id_column}
        reasons.append(
            f"{table.path.name} is the {role} table: {id_column!r} is there once per row ({table.rows:,} rows)"
        )
        if role == "items":
            _guess_item_columns(table, id_column, settings[role], reasons)
        known = _known_share(events, str(key), table, id_column)
        if known < _KNOWN_SHARE:
            found["unknown_entities"] = "keep"
            reasons.append(
                f"{table.path.name} lists the {role} of only {known:.0%} of the events: events of unknown ones are kept"
            )
    _guess_span(events, found, settings, reasons)
    reasons += [f"{t.path.name} is not used" for t in others]
    return settings, reasons


def _events_of(tables: list[_Table]) -> _Table:
    fit = [t for t in tables if _column(t, _USER) and _column(t, _ITEM) and _time_column(t)]
    if not fit:
        shown = "; ".join(f"{t.path.name}: {', '.join(t.columns[:8])}" for t in tables[:5])
        raise SourceError(
            "no file looks like a table of events",
            expected="a column with the user, one with the item and one with the time, such as user_id, item_id, event_time",
            got=shown,
            fix="write prescore.toml by hand, or rename the columns",
        )
    named = [t for t in fit if any(word in t.path.name.lower() for word in _EVENT_FILES)]
    return max(named or fit, key=lambda t: t.rows)


def _words(name: str) -> list[str]:
    return [w for w in re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) if w]


def _column(table: _Table, words: tuple[str, ...]) -> str | None:
    """The column whose name is the best of some words: word_id, then the word itself, then one that starts with it."""
    for word in words:
        for name in table.columns:
            parts = _words(name)
            if parts[:1] == [word] and parts[-1] in _ID_WORDS:
                return name
        for name in table.columns:
            if "".join(_words(name)) in {word, f"{word}id"}:
                return name
    return None


def _time_column(table: _Table) -> str | None:
    typed = [n for n in table.columns if table.files.table[n].type().is_timestamp()]
    if typed:
        return next((n for n in typed if _by_word(n, _TIME)), typed[0])
    named = [(rank, n) for n in table.columns if (rank := _by_word(n, _TIME))]
    readable = [(rank, n) for rank, n in named if _holds_times(table, n)]
    return min(readable)[1] if readable else None


def _by_word(name: str, words: tuple[str, ...]) -> int:
    """Place of the first of some words that a name ends with, from 1; 0 for none."""
    parts = "_".join(_words(name))
    return next((n for n, word in enumerate(words, 1) if parts == word or parts.endswith("_" + word)), 0)


def _holds_times(table: _Table, name: str) -> bool:
    column = table.files.table[name]
    kind = column.type()
    if kind.is_numeric() or kind.is_date():
        return True
    if not kind.is_string():
        return False
    sample = table.files.table.filter(column.notnull()).limit(1_000)
    good = sample[name].try_cast("timestamp").notnull() | sample[name].try_cast("float64").notnull()
    return bool(good.all().fill_null(False).to_pyarrow().as_py())


def _guess_time(events: _Table, time: str | None, found: dict[str, Any], reasons: list[str]) -> None:
    column = events.files.table[str(time)]
    kind = column.type()
    number = column.try_cast("float64") if kind.is_string() else column
    if kind.is_numeric() or (kind.is_string() and number.notnull().all().to_pyarrow().as_py()):
        found["time_unit"] = guess_unit(number.max().to_pyarrow().as_py())
        reasons.append(
            f"{time!r} is a number that counts from 1970 in the unit {found['time_unit']!r}, by its size"
        )
        return
    zoned = kind.is_timestamp() and kind.timezone is not None
    if kind.is_string():
        naive = ~column.re_search(r":\d\d(\.\d+)?\s*([Zz]|[+-]\d\d(:?\d\d)?)$")
        zoned = not naive.any().to_pyarrow().as_py()
    if not zoned:
        found["timezone"] = "UTC"
        reasons.append(
            f"{time!r} carries no zone: taken to be UTC; correct events.timezone if it is local time"
        )


def _guess_value(events: _Table, found: dict[str, Any], reasons: list[str]) -> None:
    used = {found["user"], found["item"], found["time"]}
    table = events.files.table
    for word in _VALUE:
        for name in events.columns:
            if name in used or "_".join(_words(name)) != word:
                continue
            number = table[name].try_cast("float64")
            facts = (
                table.aggregate(low=number.min(), high=number.max(), kinds=number.nunique())
                .to_pyarrow()
                .to_pylist()[0]
            )
            if facts["low"] is None:
                continue
            found["value"] = name
            reasons.append(f"{name!r} is the value of an event: {facts['low']:g} to {facts['high']:g}")
            few = facts["kinds"] <= 20 and 4 <= facts["high"] <= 100
            if word in _RATING and few:
                found["min_value"] = _liked(facts["low"], facts["high"])
                reasons.append(
                    f"{name!r} is a rating: events below {found['min_value']:g} are no sign of liking and are left out"
                )
            return


def _liked(low: float, high: float) -> float:
    """The least rating that says 'liked': 4 of 1 to 5, and the like on other scales."""
    return float(round(low + 0.75 * (high - low), 1))


def _guess_span(events: _Table, found: dict[str, Any], settings: Settings, reasons: list[str]) -> None:
    """Lengthen the candidate window where recent events are too thin to tell what is on offer."""
    least = CandidateSettings().min_events
    usual = CandidateSettings().window_days
    table = events.files.table
    time = as_time(
        events.files, found["time"], zone=found.get("timezone", ""), unit=found.get("time_unit", "")
    )
    own = table.select(item=table[found["item"]], time=time)
    span = own.aggregate(first=own.time.min(), last=own.time.max()).to_pyarrow().to_pylist()[0]
    first, last = span["first"], span["last"]
    if last is None:
        return
    sold = own.group_by("item").aggregate(
        all=own.count(),
        **{
            f"d{days}": own.count(
                where=own.time > ibis.literal((last - timedelta(days=days)).isoformat()).cast(UTC)
            )
            for days in (usual, *_LONGER_WINDOWS)
        },
    )
    counts = (
        sold.aggregate(**{name: (sold[name] >= least).sum() for name in sold.columns[1:]})
        .to_pyarrow()
        .to_pylist()[0]
    )
    enough = (counts["all"] or 0) / 4
    if (counts[f"d{usual}"] or 0) >= enough:
        return
    longer = next((d for d in _LONGER_WINDOWS if (counts[f"d{d}"] or 0) >= enough), _LONGER_WINDOWS[-1])
    settings["candidates"] = {"window_days": longer}
    settings["features"] = {
        "pair_history_days": max((last - first).days + 1, FeatureSettings().pair_history_days)
    }
    settings["scoring"] = {"active_within_days": longer}
    settings["training"] = {"window_days": longer // 2}
    reasons.append(
        f"only {counts[f'd{usual}']:,} of {counts['all']:,} items have {least} events in the last {usual} days: "
        f"{longer} days are looked at for candidates and active users, {longer // 2} for a label window, "
        "the whole of the events for histories"
    )


def _entity_table(tables: list[_Table], words: tuple[str, ...], key: str) -> tuple[_Table | None, str]:
    """The table in which an id is there once per row; the one with the events' own column name goes first."""
    for wanted in (lambda t: key if key in t.columns else None, lambda t: _column(t, words), _plain_id):
        for table in tables:
            name = wanted(table)
            if name is None or (wanted is _plain_id and not any(w in table.path.name.lower() for w in words)):
                continue
            if table.rows and table.files.table[name].nunique().to_pyarrow().as_py() == table.rows:
                return table, name
    return None, ""


def _plain_id(table: _Table) -> str | None:
    return next((n for n in table.columns if n.lower() == "id"), None)


def _known_share(events: _Table, key: str, table: _Table, id_column: str) -> float:
    """Share of the events whose entity the table lists."""
    ids = table.files.table.select(found=table.files.table[id_column].cast("string")).distinct()
    own = events.files.table.select(key=events.files.table[key].cast("string"))
    known = own.semi_join(ids, own.key == ids.found).count().to_pyarrow().as_py()
    return float(known) / max(events.rows, 1)


def _guess_item_columns(table: _Table, id_column: str, found: dict[str, Any], reasons: list[str]) -> None:
    rest = [n for n in table.columns if n != id_column]
    ranked = sorted((rank, n) for n in rest if (rank := _by_word(n, _TITLE)))
    texts = [n for _, n in ranked if table.files.table[n].type().is_string()]
    if texts:
        found["title"] = texts[0]
        reasons.append(f"{texts[0]!r} is what people read instead of the id, by its name")
    groups = []
    for name in rest:
        column = table.files.table[name]
        if name in texts[:1] or not column.type().is_string() or _is_number(table, name):
            continue
        values = column.nunique().to_pyarrow().as_py()
        if _MIN_GROUP_VALUES < values <= min(MAX_GROUP_VALUES, table.rows // 4):
            groups.append((values, name))
    # Three are enough: a group of many values says more than one of few, and each costs memory and time.
    chosen = sorted(groups, reverse=True)[:3]
    if chosen:
        found["groups"] = [name for _, name in sorted(chosen)]
        for values, name in sorted(chosen):
            reasons.append(
                f"{name!r} groups the items ({values:,} values): features of a user's taste for it"
            )
    small = [n for n in rest if plain_name(n) != n]
    if small:
        reasons.append(f"columns such as {small[0]!r} appear in features as {plain_name(small[0])!r}")
    limit = FeatureSettings().max_vocabulary
    reasons.append(f"text columns of up to {limit} values and all numbers of users and items become features")


def _is_number(table: _Table, name: str) -> bool:
    if not table.files.is_text or name in table.files.declared_text:
        return False
    column = table.files.table[name]
    return bool(
        (column.try_cast("float64").notnull() | column.isnull()).all().fill_null(False).to_pyarrow().as_py()
    )
