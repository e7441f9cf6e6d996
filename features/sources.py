"""Reads the three tables that the settings name, checks them, and gives them one form.

What is wrong with a table is a :class:`~features.errors.SourceError` that says what was expected, what
came and what to do; what is merely left out (events of unknown entities, repeated rows) is counted in
the :class:`SourceReport`. Nothing here depends on a cut-off: one reading serves many feature builds.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import duckdb
import ibis
import structlog

from features import columns
from features.encoding import DAY_MICROSECONDS, microseconds
from features.entity_tables import EntityTable, read_entities
from features.errors import SettingsError, SourceError, StorageError
from features.passes import create_in_passes
from features.scratch import scratch_folder
from features.table_files import explain, open_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

    from features.columns import IdType
    from features.settings import (
        CandidateSettings,
        EventsSettings,
        FeatureSettings,
        ItemsSettings,
        UsersSettings,
    )

log = structlog.get_logger()


class SourceSections(Protocol):
    """The sections of the settings that features need; the whole settings tree satisfies it too."""

    @property
    def events(self) -> EventsSettings:
        """Who did what, when."""

    @property
    def users(self) -> UsersSettings:
        """One row per user."""

    @property
    def items(self) -> ItemsSettings:
        """One row per item."""

    @property
    def candidates(self) -> CandidateSettings:
        """What can be recommended."""

    @property
    def features(self) -> FeatureSettings:
        """The standard features."""


@dataclass(frozen=True)
class Finding:
    """Rows that were left out, and why."""

    table: str
    reason: str
    rows: int


@dataclass
class SourceReport:
    """What was read: rows in the files, rows kept, and every reason for the difference."""

    rows_read: dict[str, int] = field(default_factory=dict)
    rows_kept: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def drop(self, table: str, reason: str, rows: int) -> None:
        """Note rows that were left out."""
        if rows:
            self.findings.append(Finding(table, reason, rows))
            log.warning("source_rows_dropped", table=table, reason=reason, rows=rows)


@dataclass(frozen=True)
class Sources:
    """The three tables in one form, on one DuckDB connection that lives as long as the context.

    Attributes:
        connection: Ibis on DuckDB.
        events: user_id, item_id, event_time (timestamp[us, UTC]), value (float64, finite).
        users: user_id and the table's own columns; with no users table, the users of the events.
        items: item_id, ``title`` (string or null), group columns (string) and own columns.
        users_listed, items_listed: Whether the entity has a table of its own.
        groups: Group columns of the items, by the name they have in features.
        first_event, last_event: Times of the first and the last event.
        report: What was read and left out.
    """

    connection: Backend
    events: ir.Table
    users: EntityTable
    items: EntityTable
    user_id_type: IdType
    item_id_type: IdType
    first_event: datetime
    last_event: datetime
    report: SourceReport


@contextmanager
def open_sources(
    settings: SourceSections, *, scratch: Path | None = None, now: datetime | None = None
) -> Iterator[Sources]:
    """Read and check the three tables.

    Args:
        settings: The sections of ``prescore.toml``.
        scratch: Folder for DuckDB's file and for what spills; a fresh one below it is removed afterwards.
            Default: the system's folder for temporary files.
        now: Events after this instant (and a day's grace for clocks) come from the future.

    Raises:
        SourceError: If a table is not what the settings say.
        StorageError: If the disk is full or the memory limit too small.
    """
    with scratch_folder(scratch) as folder:
        connection = _connect(settings, folder)
        try:
            try:
                sources = read_sources(connection, settings, now=now or datetime.now(UTC))
            except duckdb.Error as error:
                raise explain(error, "a table", folder.parent) from error
            yield sources
        except duckdb.Error as error:
            raise StorageError(
                "DuckDB could not finish the work",
                got=str(error).splitlines()[0],
                fix=f"free disk space at {folder.parent}, or raise features.memory_limit",
            ) from error
        finally:
            connection.disconnect()


def _connect(settings: SourceSections, folder: Path) -> Backend:
    try:
        connection = ibis.duckdb.connect(
            folder / "sources.duckdb",
            memory_limit=settings.features.memory_limit,
            temp_directory=str(folder / "spill"),
            preserve_insertion_order=False,
        )
    except duckdb.IOException as error:
        raise explain(error, "the scratch database", folder.parent) from error
    except duckdb.Error as error:
        raise SettingsError(
            "features.memory_limit cannot be understood",
            expected="a number and a unit, such as '2GB'",
            got=f"{settings.features.memory_limit!r}: {str(error).splitlines()[0]}",
        ) from error
    # Where the main module is no file, DuckDB takes the process for a notebook and draws bars.
    connection.con.execute("SET enable_progress_bar = false")
    return connection


def read_sources(connection: Backend, settings: SourceSections, *, now: datetime) -> Sources:
    """Read and check the three tables on a connection; see :func:`open_sources`."""
    report = SourceReport()
    parsed = _parse_events(connection, settings)
    user_type, item_type = parsed.user_id_type, parsed.item_id_type
    report.rows_read["events"] = parsed.table.count().to_pyarrow().as_py()
    users = read_entities(connection, settings.users, "users", user_type)
    items = read_entities(connection, settings.items, "items", item_type)
    for role, entities in (("users", users), ("items", items)):
        if entities is not None:
            report.rows_read[role] = report.rows_kept[role] = entities.rows
    good = _leave_out_bad_rows(parsed, settings.events, report, now)
    known = _leave_out_unknown(good, settings.events, users, items, report)
    rows = known.count().to_pyarrow().as_py()
    if settings.events.duplicates == "drop":
        day = (microseconds(known.event_time) // DAY_MICROSECONDS).abs()
        events = create_in_passes(connection, "events", known, day, rows, lambda some: some.distinct())
    else:
        events = connection.create_table("events", known)
    kept = report.rows_kept["events"] = events.count().to_pyarrow().as_py()
    report.drop("events", "repeated", rows - kept)
    connection.drop_table("parsed_events")
    first, last = _check_size(events, settings, report)
    return Sources(
        connection,
        events,
        users or EntityTable.of_events(connection, events, "users", user_type),
        items or EntityTable.of_events(connection, events, "items", item_type),
        user_type,
        item_type,
        first,
        last,
        report,
    )


def default_cutoff(sources: Sources, *, now: datetime | None = None) -> datetime:
    """The midnight in UTC that follows the last event; where that is yet to come, the last midnight."""
    present = (now or datetime.now(UTC)).astimezone(UTC)
    following = sources.last_event.astimezone(UTC) + timedelta(days=1)
    return min(following, present).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class _ParsedEvents:
    """Events with parsed columns, null where they could not be; ``unread_times``: the texts that are no time."""

    table: ir.Table
    user_id_type: IdType
    item_id_type: IdType
    unread_times: ir.Table


def _parse_events(connection: Backend, settings: SourceSections) -> _ParsedEvents:
    """Materialize the events with parsed columns; what cannot be parsed is null."""
    own = settings.events
    files = open_table(connection, own.path, "events")
    for name, key in ((own.user, "events.user"), (own.item, "events.item"), (own.time, "events.time")):
        columns.require(files, name, key)
    kinds: dict[str, columns.IdKind] = {
        "events.user": columns.id_kind(files, own.user, "events.user"),
        "events.item": columns.id_kind(files, own.item, "events.item"),
    }
    for role, section in (("users", settings.users), ("items", settings.items)):
        if section.path:
            kinds[f"{role}.id"] = columns.id_kind(
                open_table(connection, section.path, role), section.id, f"{role}.id"
            )
    user_type = columns.common_id_type({k: v for k, v in kinds.items() if k in {"events.user", "users.id"}})
    item_type = columns.common_id_type({k: v for k, v in kinds.items() if k in {"events.item", "items.id"}})
    user, item = files.table[own.user], files.table[own.item]
    value: ir.Value = ibis.literal(1.0)
    if own.value:
        raw = columns.require(files, own.value, "events.value")
        if not (raw.type().is_numeric() or raw.type().is_boolean() or raw.type().is_string()):
            raise SourceError(
                f"column {own.value!r} of the events is no number",
                expected="numbers",
                got=str(raw.type()),
                fix="name another column as events.value, or leave it empty",
            )
        value = raw.try_cast("float64")
    time = columns.as_time(files, own.time, zone=own.timezone, unit=own.time_unit)
    parsed = files.table.select(
        user_id=columns.as_id(user, user_type),
        item_id=columns.as_id(item, item_type),
        event_time=time,
        value=value,
        too_long=columns.too_long(user, user_type) | columns.too_long(item, item_type),
    )
    try:
        table = connection.create_table("parsed_events", parsed)
    except duckdb.Error as error:
        raise explain(error, "the events") from error
    raw = files.table[own.time]
    unread = files.table.filter(time.isnull() & raw.notnull()).select(text=raw.cast("string"))
    return _ParsedEvents(table, user_type, item_type, unread)


def _leave_out_bad_rows(
    events: _ParsedEvents, own: EventsSettings, report: SourceReport, now: datetime
) -> ir.Table:
    """Rows that can be used; the others are an error or are counted, as ``events.bad_rows`` says."""
    parsed = events.table
    latest = ibis.literal((now + timedelta(days=1)).isoformat()).cast(columns.UTC)
    faults = {
        f"id longer than {columns.MAX_ID_BYTES} bytes": parsed.too_long,
        "no user or item id": (parsed.user_id.isnull() | parsed.item_id.isnull()) & ~parsed.too_long,
        "no readable time": parsed.event_time.isnull(),
        "time in the future": parsed.event_time > latest,
        "value missing or no finite number": parsed.value.isnull()
        | parsed.value.isnan()
        | (parsed.value.abs() > columns.MAX_NUMBER),
    }
    bad = {name: condition.fill_null(False) for name, condition in faults.items()}
    marked = parsed.mutate(**{f"bad_{n}": condition for n, condition in enumerate(bad.values())})
    counts = (
        marked.aggregate(**{f"n_{n}": marked[f"bad_{n}"].sum() for n in range(len(bad))})
        .to_pyarrow()
        .to_pylist()[0]
    )
    found = {reason: int(counts[f"n_{n}"] or 0) for n, reason in enumerate(bad)}
    for n, (reason, rows) in enumerate(found.items()):
        if rows and own.bad_rows == "error":
            example = (
                marked.filter(marked[f"bad_{n}"]).select("user_id", "item_id", "event_time", "value").limit(1)
            )
            shown = example.to_pyarrow().to_pylist()[0]
            if shown["event_time"] is None:
                unread = events.unread_times.limit(1).to_pyarrow()["text"].to_pylist()
                shown["event_time"] = repr(unread[0]) if unread else None
            raise SourceError(
                f"{rows} events cannot be used: {reason}",
                expected="ids, a time up to now, and a finite value (up to 1e30) in each row",
                got=", ".join(f"{k}={str(v)[:80]}" for k, v in shown.items()),
                fix="mend the rows, check events.timezone and events.time_unit, or set events.bad_rows = 'drop'",
            )
        report.drop("events", reason, rows)
    good = marked.filter([~marked[f"bad_{n}"] for n in range(len(bad))])
    good = good.select("user_id", "item_id", "event_time", "value")
    if own.min_value is not None:
        report.drop(
            "events",
            f"value below {own.min_value:g}",
            (good.value < own.min_value).sum().to_pyarrow().as_py() or 0,
        )
        good = good.filter(good.value >= own.min_value)
    return good


def _leave_out_unknown(
    events: ir.Table,
    own: EventsSettings,
    users: EntityTable | None,
    items: EntityTable | None,
    report: SourceReport,
) -> ir.Table:
    """Apply ``events.unknown_entities`` to events whose user or item is in no table."""
    for entities, key in ((users, "user_id"), (items, "item_id")):
        if entities is None or own.unknown_entities == "keep":
            continue
        listed = entities.table.select(key)
        unknown = events.anti_join(listed, key)
        rows = unknown.count().to_pyarrow().as_py()
        if rows and own.unknown_entities == "error":
            example = unknown.limit(1).to_pyarrow()[key][0].as_py()
            raise SourceError(
                f"{rows} events are of {entities.role} that their table does not list",
                expected=f"every {key} of the events in the {entities.role}",
                got=f"such as {str(example)[:80]!r}",
                fix=f"complete the {entities.role}, or set events.unknown_entities to 'drop' or 'keep'",
            )
        report.drop("events", f"unknown {entities.role[:-1]}", rows)
        events = events.semi_join(listed, key)
    return events


def _check_size(
    events: ir.Table, settings: SourceSections, report: SourceReport
) -> tuple[datetime, datetime]:
    facts = events.aggregate(
        first=events.event_time.min(),
        last=events.event_time.max(),
        users=events.user_id.approx_nunique(),
        items=events.item_id.approx_nunique(),
    )
    row = facts.to_pyarrow().to_pylist()[0]
    if row["first"] is None:
        left_out = "; ".join(f"{f.rows} {f.reason}" for f in report.findings if f.table == "events")
        raise SourceError(
            "there are no events",
            expected="at least one row that can be used",
            got=f"{report.rows_read['events']} rows in {settings.events.path}"
            + (f", left out: {left_out}" if left_out else ""),
            fix="check the file, events.min_value and events.unknown_entities",
        )
    for entity in ("users", "items"):
        if row[entity] < 2:
            raise SourceError(
                f"the events are all of one {entity[:-1]}",
                expected=f"at least two {entity}: with one there is nothing to rank or to learn",
                got=f"1 {entity[:-1]} in {report.rows_kept['events']} events",
                fix=f"check that events.{entity[:-1]} names the right column",
            )
    return row["first"], row["last"]
