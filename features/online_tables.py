"""Turns a block of a feature build into the rows of the online store: one per user, with lists where keys follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.online import ITEM_IDS, KEYS, PAIR_VIEW, USER_VIEW, affinity_view
from features.schema import ITEM_ID, PAIR, USER, USER_HASH, USER_ID, affinity

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild, HashRange


def online_tables(build: FeatureBuild, hashes: HashRange | None = None) -> dict[str, pa.Table]:
    """Rows of every online view for the users of a block.

    Returns:
        By view: ``user_id`` and the fields of :func:`features.online.online_views`. Missing numbers are null
        in ``user_features`` and NaN inside lists. Users without affinities or pairs have no row there.
    """
    schema = build.schema
    tables = {}
    names = [c.name for c in schema.of(USER)]
    if names:
        tables[USER_VIEW] = build.read_users(hashes, [USER_ID, *names])
    for group in schema.groups:
        names = [c.name for c in schema.of(affinity(group))]
        rows = build.read_affinity(group, hashes, [USER_HASH, USER_ID, group, *names])
        tables[affinity_view(group)] = _listed(rows, group, KEYS, names)
    names = [c.name for c in schema.of(PAIR)]
    rows = build.read_pairs(hashes, [USER_HASH, USER_ID, ITEM_ID, *names])
    tables[PAIR_VIEW] = _listed(rows, ITEM_ID, ITEM_IDS, names)
    return tables


def _listed(rows: pa.Table, key: str, key_field: str, names: list[str]) -> pa.Table:
    """One row per user; rows come sorted by user, so that a user is a run."""
    rows = rows.combine_chunks()
    ids = _chunk(rows, USER_ID)
    if len(ids):
        starts = np.flatnonzero(
            np.concatenate([[True], pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)])
        )
    else:
        starts = np.empty(0, np.int64)
    offsets = pa.array(np.append(starts, len(ids)).astype(np.int32))
    columns: dict[str, pa.Array] = {USER_ID: ids.take(pa.array(starts))}
    columns[key_field] = pa.ListArray.from_arrays(offsets, _chunk(rows, key))
    for name in names:
        values = pc.fill_null(_chunk(rows, name), pa.scalar(float("nan"), pa.float32()))
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(columns)


def _chunk(rows: pa.Table, name: str) -> pa.Array:
    column = rows[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
