"""Lists as the rows of scored tables: the way back from :func:`materialize.publish.published_lists.lists_of_rows`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schema import ITEM_ID, USER_ID


def rows_of_lists(lists: pa.Table) -> pa.Table:
    """Rows of a table of lists, sorted by (user_id, rank), as a scored block holds them."""
    lists = lists.sort_by(USER_ID).combine_chunks()
    items, scores = lists["item_ids"].combine_chunks(), lists["scores"].combine_chunks()
    counts = np.asarray(pc.list_value_length(items)).astype(np.int64)
    starts = np.cumsum(counts) - counts
    ranks = np.arange(counts.sum()) - np.repeat(starts, counts) + 1
    owner = np.repeat(np.arange(len(counts)), counts)
    return pa.table(
        {
            USER_ID: lists[USER_ID].combine_chunks().take(pa.array(owner)),
            "rank": pa.array(ranks.astype(np.int32)),
            ITEM_ID: items.flatten(),
            "score": scores.flatten().cast(pa.float32()),
        }
    )
