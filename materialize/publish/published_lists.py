"""The two shapes in which top-K lists are published, and the way between them.

*Lists*: one row per user, as the store holds it: ``user_id, item_ids list, scores list<float>, generation``.
*Rows*: one row per user and place, as the scored tables hold it: ``user_id, rank int32 (from 1), item_id,
score float32``, sorted by (user_id, rank).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.errors import SchemaMismatchError
from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lists_table(
    user_ids: pa.Array,
    item_ids: pa.Array,
    scores: NDArray[np.float32],
    counts: NDArray[np.integer],
    generation: str,
) -> pa.Table:
    """Lists of n users, without a copy of what is given.

    Args:
        user_ids: n ids, int64 or string.
        item_ids: The lists end to end, best first; int64 or string.
        scores: float32, likewise.
        counts: Length of each list, int[n].
        generation: Id of the generation.

    Raises:
        SchemaMismatchError: If the lengths do not fit together.
    """
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    if not (len(user_ids) == len(counts) and len(item_ids) == len(scores) == offsets[-1]):
        raise SchemaMismatchError(
            "lists, users and counts do not fit together",
            expected=f"{len(user_ids)} counts, and {offsets[-1]} items and scores",
            got=f"{len(counts)} counts, {len(item_ids)} items, {len(scores)} scores",
        )
    return pa.table(
        {
            USER_ID: user_ids,
            "item_ids": pa.LargeListArray.from_arrays(offsets, item_ids),
            "scores": pa.LargeListArray.from_arrays(offsets, pa.array(scores, pa.float32())),
            "generation": pa.repeat(pa.scalar(generation, pa.string()), len(user_ids)),
        }
    )


def lists_of_rows(rows: pa.Table, generation: str) -> pa.Table:
    """Lists of a table of rows that is sorted by (user_id, rank), such as a scored block."""
    rows = rows.combine_chunks()
    starts = np.flatnonzero(np.asarray(rows["rank"]) == 1)
    counts = np.diff(np.append(starts, rows.num_rows))
    user_ids = _contiguous(rows[USER_ID])
    if rows.num_rows and (not len(starts) or starts[0] != 0):
        raise SchemaMismatchError(
            "a scored block does not begin with a rank 1", expected="rows by (user_id, rank)"
        )
    return lists_table(
        user_ids.take(pa.array(starts)),
        _contiguous(rows[ITEM_ID]),
        _contiguous(rows["score"]).to_numpy(zero_copy_only=False),
        counts,
        generation,
    )


def _contiguous(values: pa.ChunkedArray) -> pa.Array:
    combined = values.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
