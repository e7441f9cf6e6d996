"""Numbers users, items and groups in the order of the files, so that DuckDB groups and sorts small integers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import ibis
import ibis.expr.datatypes as dt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import UTC
from features.schema import user_hash

if TYPE_CHECKING:
    from datetime import datetime

    import ibis.expr.types as ir

    from features.sources import Sources

DAY_MICROSECONDS = 86_400_000_000


@ibis.udf.scalar.builtin(name="epoch_us", signature=((UTC,), dt.int64))  # type: ignore[untyped-decorator]
def microseconds(time: object) -> int:  # type: ignore[empty-body]
    """DuckDB's microseconds since 1970."""


def end_of_day(cutoff: datetime) -> datetime:
    """The midnight (UTC) at a cut-off or after it, from which ages are counted: they stay the same all day.

    Args:
        cutoff: With zone UTC.
    """
    midnight = cutoff.replace(hour=0, minute=0, second=0, microsecond=0)
    return cutoff if cutoff == midnight else midnight + timedelta(days=1)


@dataclass(frozen=True)
class Encoded:
    """Ids by number, and the events before a cut-off with numbers in place of ids.

    Attributes:
        user_ids, user_hashes: By ``user_no``: sorted by (user_hash, user_id).
        item_ids: By ``item_no``: sorted.
        group_values: By group, by code: its strings, sorted.
        users: Ibis table ``user_no, user_id``.
        items: Ibis table ``item_no, item_id`` and one code column per group (null: none).
        events: Ibis table ``user_no, item_no, event_time, age_days, value``; strictly before the cut-off, aged in days
            at the end of its day.
    """

    user_ids: pa.Array
    user_hashes: pa.Array
    item_ids: pa.Array
    group_values: dict[str, pa.Array]
    users: ir.Table
    items: ir.Table
    events: ir.Table


def encode(sources: Sources, cutoff: datetime) -> Encoded:
    """Number the entities that exist before a cut-off and materialize the events in numbers.

    Entities of a table of their own are all there; others from their first event on.
    """
    connection = sources.connection
    moment = ibis.literal(cutoff.isoformat()).cast(UTC)
    before = sources.events.filter(sources.events.event_time < moment)
    users = before.select("user_id").distinct()
    if sources.users.listed:
        users = users.union(sources.users.table.select("user_id"), distinct=True)
    ids = users.to_pyarrow()["user_id"].combine_chunks()
    table = pa.table({"user_hash": pa.array(user_hash(ids)), "user_id": ids})
    table = table.sort_by([("user_hash", "ascending"), ("user_id", "ascending")]).combine_chunks()
    items = before.select("item_id").distinct()
    if sources.items.listed:
        items = items.union(sources.items.table.select("item_id"), distinct=True)
    item_ids = items.to_pyarrow()["item_id"].combine_chunks()
    item_ids = item_ids.take(pc.sort_indices(item_ids))
    user_codes = connection.create_table(
        "user_codes", _numbered("user_no", "user_id", table["user_id"].combine_chunks()), overwrite=True
    )
    item_codes = connection.create_table(
        "item_codes", _numbered("item_no", "item_id", item_ids), overwrite=True
    )
    group_values: dict[str, pa.Array] = {}
    grouped = item_codes
    if sources.items.groups:
        own = sources.items.table.select("item_id", *sources.items.groups)
        grouped = item_codes.left_join(own, "item_id").select("item_no", "item_id", *sources.items.groups)
        for group in sources.items.groups:
            values = (
                own.filter(own[group].notnull()).select(group).distinct().to_pyarrow()[group].combine_chunks()
            )
            group_values[group] = values.take(pc.sort_indices(values))
            codes = connection.create_table(
                f"group_{group}_codes", _numbered("code", "value", group_values[group]), overwrite=True
            )
            kept = [c for c in grouped.columns if c != group]
            grouped = grouped.left_join(codes, grouped[group] == codes.value).select(*kept, code="code")
            grouped = grouped.rename({group: "code"})
        grouped = connection.create_table("item_groups", grouped, overwrite=True)
    origin = int(end_of_day(cutoff).timestamp()) * 1_000_000
    age = (ibis.literal(origin) - microseconds(before.event_time)) / DAY_MICROSECONDS
    numbered = before.mutate(age_days=age).join(user_codes, "user_id").join(item_codes, "item_id")
    events = connection.create_table(
        "coded_events",
        numbered.select("user_no", "item_no", "event_time", "age_days", "value"),
        overwrite=True,
    )
    return Encoded(
        table["user_id"].combine_chunks(),
        table["user_hash"].combine_chunks(),
        item_ids,
        group_values,
        user_codes,
        grouped,
        events,
    )


def _numbered(number: str, name: str, values: pa.Array) -> pa.Table:
    return pa.table({number: pa.array(np.arange(len(values), dtype=np.int32)), name: values})
