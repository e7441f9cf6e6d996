"""Model inputs of past (user, item) rows, joined point in time by Feast, as one float32 matrix.

Feast joins each row to the newest feature values not after the row's timestamp. It is asked once per
scope, for the distinct keys of that scope only: a user of a window has one row however many items are
drawn for them. Only the builds that are given are visible to the join, and each must end where a label
window starts: older features would not be those that scoring will see, later ones would know the answer.
"""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig

from features.errors import SchemaMismatchError
from features.feast_views import ITEM_VIEW, PAIR_HISTORY, entities_of, history_view, offline_views
from features.feature_build import USERS, FeatureBuild, cutoff_time
from features.online import USER_VIEW
from features.schema import (
    EVENT_TIMESTAMP,
    ITEM,
    ITEM_ID,
    PAIR,
    USER,
    USER_ID,
    FeatureColumn,
    FeatureSchema,
    affinity,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_ROW = "training_row"


@dataclass(frozen=True)
class _Part:
    """The columns of one scope and the keys they are joined by."""

    view: str
    keys: tuple[str, ...]
    columns: list[FeatureColumn]


def training_matrix(
    rows: pa.Table, builds: Sequence[FeatureBuild], schema: FeatureSchema | None = None
) -> NDArray[np.float32]:
    """Model inputs of rows, in the order of the rows.

    Args:
        rows: ``user_id``, ``item_id`` and ``event_timestamp`` (timestamp[us, UTC]): the start of the label
            window of each row. Other columns, such as label and weight, are the caller's.
        builds: A build per distinct timestamp, with that cut-off.
        schema: Columns and vocabularies; default: those of the newest build.

    Returns:
        float32[n, F], C order, columns as in the schema; missing values are NaN.

    Raises:
        SchemaMismatchError: If a timestamp has no build, builds differ in their columns, or a build holds
            something that happened at or after its cut-off.
    """
    builds = sorted(builds, key=lambda build: build.cutoff)
    if not builds:
        raise SchemaMismatchError(
            "there is no feature build to join", fix="build features for each label window"
        )
    schema = schema or builds[-1].schema
    check_point_in_time(rows[EVENT_TIMESTAMP], builds)
    for build in builds:
        missing = sorted(set(schema.names) - set(build.schema.names))
        if missing:
            raise SchemaMismatchError(
                f"the build of {build.cutoff_name} lacks features",
                got=f"no {', '.join(missing[:5])}",
                fix="build it again",
            )
    keyed = rows.select([USER_ID, ITEM_ID, EVENT_TIMESTAMP])
    for group in schema.groups:
        keyed = keyed.append_column(group, _groups_of(keyed[ITEM_ID], group, builds[-1]))
    matrix = np.empty((rows.num_rows, len(schema.columns)), np.float32)
    place = {name: position for position, name in enumerate(schema.names)}
    with _open_store(schema, builds) as store:
        for part in _parts(schema):
            names = [column.name for column in part.columns]
            found, rank = _join(store, keyed, part, names)
            for column in part.columns:
                # One gather per column: values of the distinct keys, spread over the rows that have them.
                matrix[:, place[column.name]] = column.encode(found[column.name])[rank]
    return matrix


def check_point_in_time(timestamps: pa.ChunkedArray, builds: Sequence[FeatureBuild]) -> None:
    """Refuse features that could know the labels.

    Every row must have a build whose cut-off is the row's timestamp; every table of a build must say that
    cut-off, and no user's last event may lie at or after it.

    Raises:
        SchemaMismatchError: Naming the build and what it holds.
    """
    known = {build.cutoff for build in builds}
    for value in pc.unique(timestamps).to_pylist():
        if value not in known:
            raise SchemaMismatchError(
                "a label window has no features as of its start",
                expected=f"a build with the cut-off {value}",
                got=", ".join(sorted(build.cutoff_name for build in builds)),
                fix="build features with that cut-off",
            )
    for build in builds:
        for file in build.tables:
            _check_file(build, file)


def _check_file(build: FeatureBuild, file: str) -> None:
    cutoff = cutoff_time(build.cutoff_name)
    columns = [EVENT_TIMESTAMP, "last_event"] if file == USERS else [EVENT_TIMESTAMP]
    table = pq.read_table(build.file(file), columns=columns, partitioning=None)
    span = pc.min_max(table[EVENT_TIMESTAMP]).as_py()
    if table.num_rows and (span["min"] != cutoff or span["max"] != cutoff):
        raise SchemaMismatchError(
            f"{file} of the build {build.cutoff_name} is not as of its cut-off",
            expected=f"event_timestamp {cutoff} in each row",
            got=f"{span['min']} to {span['max']}",
            fix="build it again",
        )
    if file == USERS:
        last = pc.max(table["last_event"]).as_py()
        if isinstance(last, datetime) and last >= cutoff:
            raise SchemaMismatchError(
                f"{file} of the build {build.cutoff_name} knows the future",
                expected=f"only events before {cutoff}",
                got=f"an event at {last}",
                fix="build it again",
            )


def _parts(schema: FeatureSchema) -> list[_Part]:
    parts = [
        _Part(USER_VIEW, (USER_ID,), schema.of(USER)),
        _Part(ITEM_VIEW, (ITEM_ID,), schema.of(ITEM)),
        *(_Part(history_view(g), (USER_ID, g), schema.of(affinity(g))) for g in schema.groups),
        _Part(PAIR_HISTORY, (USER_ID, ITEM_ID), schema.of(PAIR)),
    ]
    return [part for part in parts if part.columns]


def _groups_of(item_ids: pa.ChunkedArray, group: str, build: FeatureBuild) -> pa.Array:
    items = build.read_items([ITEM_ID, group], candidates_only=False)
    places = pc.index_in(item_ids, value_set=items[ITEM_ID].combine_chunks())
    return items[group].combine_chunks().take(places.combine_chunks())


def _join(
    store: FeatureStore, keyed: pa.Table, part: _Part, names: list[str]
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Features of the distinct keys, and for each row the place of its key among them."""
    keys = [*part.keys, EVENT_TIMESTAMP]
    encoded = [keyed[key].combine_chunks().dictionary_encode() for key in keys]
    codes = np.zeros(keyed.num_rows, np.int64)
    for column in encoded:
        size = len(column.dictionary) + 1
        codes = codes * size + pc.fill_null(column.indices, size - 1).to_numpy(zero_copy_only=False)
    _, first, rank = np.unique(codes, return_index=True, return_inverse=True)
    distinct = keyed.select(keys).take(pa.array(first))
    asked = distinct.append_column(_ROW, pa.array(np.arange(len(first))))
    with warnings.catch_warnings():
        # Feast and Ibis call what pandas and DuckDB have deprecated; nothing a caller could mend.
        warnings.simplefilter("ignore")
        job = store.get_historical_features(
            entity_df=asked.to_pandas(), features=[f"{part.view}:{name}" for name in names]
        )
        found = job.to_arrow()
    return found.sort_by(_ROW), rank


@contextmanager
def _open_store(schema: FeatureSchema, builds: Sequence[FeatureBuild]) -> Iterator[FeatureStore]:
    """A Feast store that sees some builds and nothing else, for as long as it is open."""
    with tempfile.TemporaryDirectory(prefix="prescore-training-") as name:
        folder = Path(name)
        (folder / "builds").mkdir()
        for build in builds:
            (folder / "builds" / build.cutoff_name).symlink_to(
                build.path.absolute(), target_is_directory=True
            )
        config = RepoConfig(
            project="training",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store=None,
            entity_key_serialization_version=3,
            repo_path=folder,
        )
        store = FeatureStore(config=config)
        store.apply([*entities_of(schema).values(), *offline_views(schema, folder / "builds")])
        yield store
