"""Computes the tables of one build and writes their files: keys, cut-off, then features as float32 or string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy import sparse

from features.custom import CustomFeatures, load_functions
from features.definitions.affinity import affinity_features
from features.definitions.baskets import basket_vectors, baskets
from features.definitions.entity_columns import own_columns
from features.definitions.item import candidate_events, item_features
from features.definitions.neighbours import NEIGHBOUR_SCHEMA, neighbour_scores, neighbours_per_user
from features.definitions.pair import pair_features, with_neighbours
from features.definitions.pair_totals import History, pair_totals, value_units
from features.definitions.user import user_features
from features.encoding import Encoded, encode, end_of_day
from features.errors import SourceError
from features.feature_build import ITEMS, PAIRS, USERS, affinity_file
from features.parquet_writer import ROWS_PER_GROUP, write_parquet
from features.passes import create_in_passes
from features.schema import (
    EVENT_TIMESTAMP,
    ITEM,
    ITEM_ID,
    PAIR,
    USER,
    USER_HASH,
    USER_ID,
    FeatureColumn,
    FeatureSchema,
    FeatureScope,
    affinity,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from features.entity_tables import EntityTable
    from features.sources import Sources, SourceSections

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, steps in all."""

TIMESTAMP = pa.timestamp("us", "UTC")
_KEY_TYPES = {"candidate": pa.bool_(), "events": pa.int64(), "title": pa.string(), "last_event": TIMESTAMP}
KEY_COLUMNS = frozenset(
    {USER_ID, ITEM_ID, USER_HASH, EVENT_TIMESTAMP, "candidate", "events", "title", "last_event"}
)
"""Columns of the files that are no features."""

BASKETS_PER_PASS = 8_000_000
"""Events whose baskets are in memory at once: about 500 MB."""


@dataclass
class WrittenTables:
    """What was written.

    Attributes:
        schema: All features, in the order user, item, affinity, pair.
        rows: By file.
        left_out: Column of an entity table → why it is no feature.
    """

    schema: FeatureSchema
    rows: dict[str, int]
    left_out: dict[str, str]


def write_tables(
    sources: Sources, settings: SourceSections, cutoff: datetime, folder: Path, progress: Progress | None
) -> WrittenTables:
    """Write every table of a build into a folder; see :func:`features.build.build_features`."""
    groups = list(sources.items.groups)
    steps = iter(range(4 + len(groups)))

    def step(what: str) -> None:
        if progress is not None:
            progress(what, next(steps), 4 + len(groups))

    step("events")
    coded = encode(sources, cutoff)
    history = _history(sources, settings, coded, cutoff)
    custom = CustomFeatures(sources, coded, cutoff, load_functions(settings.features.custom))
    tables = _Tables(sources, settings, cutoff, folder, coded, history, custom)
    step("user features")
    tables.write_users()
    step("item features")
    tables.write_items()
    for group in groups:
        step(f"affinity features: {group}")
        tables.write_affinity(group)
    step("pair features")
    tables.write_pairs()
    schema = FeatureSchema(tuple(tables.columns), sources.user_id_type, sources.item_id_type)
    return WrittenTables(schema, tables.rows, tables.left_out)


def _history(sources: Sources, settings: SourceSections, coded: Encoded, cutoff: datetime) -> History:
    own = settings.features
    largest = coded.events.value.abs().max().to_pyarrow().as_py()
    if largest is None:
        raise SourceError(
            f"no event lies before the cut-off {cutoff.isoformat()}",
            expected=f"a cut-off after the first event, {sources.first_event.isoformat()}",
            fix="choose a later cut-off",
        )
    units = value_units(largest)
    settled_age = 0 if cutoff == end_of_day(cutoff) else 1
    windows, half_lives = tuple(sorted(set(own.windows_days))), tuple(sorted(set(own.half_lives_days)))
    totals = partial(
        pair_totals,
        windows=windows,
        half_lives=half_lives,
        pair_days=own.pair_history_days,
        candidate_days=settings.candidates.window_days,
        value_units=units,
        settled_age=settled_age,
    )
    rows = sources.report.rows_kept["events"]
    pairs = create_in_passes(
        sources.connection, "pair_totals", coded.events, coded.events.user_no, rows, totals
    )
    return History(
        coded.events, pairs, coded.items, windows, half_lives, own.pair_history_days, units, settled_age
    )


@dataclass
class _Tables:
    """The tables of one build on their way; each method writes one file."""

    sources: Sources
    settings: SourceSections
    cutoff: datetime
    folder: Path
    coded: Encoded
    history: History
    custom: CustomFeatures
    columns: list[FeatureColumn] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def write_users(self) -> None:
        """Every user, also one without events."""
        events = self.coded.events
        last = events.group_by("user_no").aggregate(last_event=events.event_time.max())
        standard = self.custom.widen(user_features(self.history), USER)
        table = _left_join(_left_join(self.coded.users, standard, "user_no"), last, "user_no")
        table, names = self._declare_entity(table, self.sources.users, standard, USER)
        self._write(USERS, table.select("user_no", "last_event", *names).order_by("user_no"))

    def write_items(self) -> None:
        """Every item, candidate or not."""
        standard = self.custom.widen(item_features(self.history), ITEM)
        counts = candidate_events(self.history)
        least = self.settings.candidates.min_events
        if not counts.filter(counts.events >= least).count().to_pyarrow().as_py():
            raise SourceError(
                "no item can be recommended",
                expected=f"items with at least {least} events in the {self.settings.candidates.window_days} days "
                "before the cut-off",
                got=f"none at {self.cutoff.isoformat()}",
                fix="lower candidates.min_events, raise candidates.window_days, or choose another cut-off",
            )
        table = _left_join(_left_join(self.coded.items, standard, "item_no"), counts, "item_no")
        table, names = self._declare_entity(table, self.sources.items, standard, ITEM)
        found = table.events.fill_null(0)
        keys = {"candidate": found >= least, "events": found, "title": table.title}
        self._write(
            ITEMS, table.select("item_no", *self.coded.group_values, *names, **keys).order_by("item_no")
        )

    def write_affinity(self, group: str) -> None:
        """Every (user, group) with an event in the history."""
        table = self.custom.widen(affinity_features(self.history, group), affinity(group))
        names = [c for c in table.columns if c not in {"user_no", group}]
        self.columns += [FeatureColumn(name, affinity(group)) for name in names]
        chosen = table.select("user_no", group, *[table[n].cast("float32").name(n) for n in names])
        self._write(affinity_file(group), chosen.order_by("user_no", group))

    def write_pairs(self) -> None:
        """Every (user, item) with an event in the history, and the neighbours of what a user had."""
        table = pair_features(self.history)
        if self.settings.features.neighbours:
            table = with_neighbours(table, self._neighbours(self.settings.features.neighbours))
        table = self.custom.widen(table, PAIR)
        names = [c for c in table.columns if c not in {"user_no", "item_no"}]
        self.columns += [FeatureColumn(name, PAIR) for name in names]
        chosen = table.select("user_no", "item_no", *[table[n].cast("float32").name(n) for n in names])
        self._write(PAIRS, chosen.order_by("user_no", "item_no"))

    def _neighbours(self, asked: int) -> ir.Table:
        """Materialize the candidates that a user had and the nearest others: rows of :data:`NEIGHBOUR_SCHEMA`."""
        connection, pairs = self.sources.connection, self.history.pairs
        counts = candidate_events(self.history, settled=True)
        made = connection.create_table("neighbours", NEIGHBOUR_SCHEMA.empty_table(), overwrite=True)
        # As settled users are, so that a new one in the course of a day changes nobody's neighbours.
        history = pairs.filter(pairs.settled_last_age <= self.history.pair_days)
        per_user = neighbours_per_user(asked, history.user_no.nunique().to_pyarrow().as_py())
        if not per_user:  # then as many pairs as there are stay in DuckDB
            return made
        offered = counts.filter(counts.events >= self.settings.candidates.min_events).select("item_no")
        items = np.sort(offered.to_pyarrow()["item_no"].to_numpy())
        own, learned = self._basket_vectors(offered, items)
        batches = neighbour_scores(own, learned, items, per_user=per_user)
        for batch in batches:
            connection.con.register("neighbour_batch", pa.Table.from_batches([batch]))
            connection.con.execute("INSERT INTO neighbours SELECT * FROM neighbour_batch")
            connection.con.unregister("neighbour_batch")
        return made

    def _basket_vectors(
        self, offered: ir.Table, items: NDArray[np.int32]
    ) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Every user's baskets of these items in the history: of all events, and of the settled ones alone.

        Users are read a part at a time, so that what is in memory at once does not grow with the events.
        """
        events = self.history.events
        events = events.filter(events.age_days <= self.history.pair_days).semi_join(offered, "item_no")
        users, today = len(self.coded.user_ids), int(self.cutoff.timestamp()) // 86400
        rows = self.sources.report.rows_kept["events"]
        step = max(1, users * BASKETS_PER_PASS // max(rows, 1))
        parts: list[tuple[sparse.csr_matrix, sparse.csr_matrix]] = []
        for start in range(0, users, step):
            some = events.filter(events.user_no >= start, events.user_no < start + step)
            found = baskets(some, "user_no", "item_no").to_pyarrow()
            user, day, item = (found[name].to_numpy() for name in found.column_names)
            user, item, settled = user - start, np.searchsorted(items, item), day < today
            shape = (min(step, users - start), len(items))
            part = basket_vectors(user, day, item, shape)
            taught = part
            if not settled.all():
                taught = basket_vectors(user[settled], day[settled], item[settled], shape)
            parts.append((part, taught))
        own, learned = (sparse.vstack(part, format="csr") for part in zip(*parts, strict=True))
        return own, learned

    def _declare_entity(
        self, table: ir.Table, entities: EntityTable, standard: ir.Table, scope: FeatureScope
    ) -> tuple[ir.Table, list[ir.Value]]:
        """Join an entity's own columns; note its features; give their columns in the type of the file."""
        names = standard.columns[1:]
        taken = {*names, *KEY_COLUMNS, *self.coded.group_values}
        own = own_columns(entities, scope, self.settings.features.max_vocabulary, taken)
        self.left_out |= {f"{entities.role}.{column}": why for column, why in own.left_out.items()}
        key = USER_ID if scope == USER else ITEM_ID
        extra = ["title"] if scope == ITEM else []
        table = _left_join(table, entities.table.select(key, *extra, *own.features), key)
        self.columns += [FeatureColumn(name, scope) for name in names]
        self.columns += own.features.values()
        values = [table[name].cast("float32").name(name) for name in names]
        for column, feature in own.features.items():
            kind = "float32" if feature.vocabulary is None else "string"
            values.append(table[column].cast(kind).name(feature.name))
        return table, values

    def _write(self, file: str, table: ir.Table) -> None:
        batches = self._decoded(table)
        first = next(batches)
        self.rows[file] = write_parquet(self.folder / file, _chain(first, batches), first.schema)

    def _decoded(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Batches with ids and strings in place of numbers, key columns first; at least one batch."""
        # Ibis 12 streams through a call that DuckDB 1.5 has deprecated.
        connection = self.sources.connection
        reader = connection.con.execute(connection.compile(table)).to_arrow_reader(ROWS_PER_GROUP)
        empty = pa.RecordBatch.from_pylist([], schema=reader.schema)
        for batch in _chain(empty, reader):
            columns: dict[str, pa.Array] = {}
            if "user_no" in batch.schema.names:
                columns[USER_HASH] = self.coded.user_hashes.take(batch["user_no"])
                columns[USER_ID] = self.coded.user_ids.take(batch["user_no"])
            if "item_no" in batch.schema.names:
                columns[ITEM_ID] = self.coded.item_ids.take(batch["item_no"])
            for name, kind in _KEY_TYPES.items():
                if name in batch.schema.names:
                    columns[name] = batch[name].cast(kind)
            for group, values in self.coded.group_values.items():
                if group in batch.schema.names:
                    columns[group] = values.take(batch[group])
            columns[EVENT_TIMESTAMP] = pa.repeat(pa.scalar(self.cutoff, TIMESTAMP), batch.num_rows)
            rest = [n for n in batch.schema.names if n not in columns and n not in {"user_no", "item_no"}]
            yield pa.RecordBatch.from_pydict(columns | {name: batch[name] for name in rest})


def _left_join(left: ir.Table, right: ir.Table, key: str) -> ir.Table:
    return left.left_join(right, key).drop(f"{key}_right")


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
