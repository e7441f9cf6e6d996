"""The best items of each user, as arrays and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TopK:
    """Lists of U users, best first, equal scores in the order of the catalogue's items.

    Attributes:
        user_ids: Arrow array[U], as they were given.
        item_index: int32[U, k], position in the catalogue; -1 beyond the count.
        catalogue_ids: Arrow array[I], ids of the catalogue's items.
        scores: float32[U, k]; NaN beyond the count.
        counts: int32[U], entries of each list.
    """

    user_ids: pa.Array
    item_index: NDArray[np.int32]
    catalogue_ids: pa.Array
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]

    @property
    def item_ids(self) -> NDArray[np.object_] | NDArray[np.int64]:
        """Ids by rank, [U, k]: objects with None beyond the count, or int64 with -1 there for integer ids."""
        real = self.item_index >= 0
        ids = self.catalogue_ids.to_numpy(zero_copy_only=False)
        if pa.types.is_integer(self.catalogue_ids.type):
            out = np.full(self.item_index.shape, -1, np.int64)
        else:
            out = np.full(self.item_index.shape, None, np.object_)
        out[real] = ids[self.item_index[real]]
        return out

    def to_table(self) -> pa.Table:
        """``user_id, rank`` (int32 from 1)``, item_id, score`` (float32), real entries only, in the users' order."""
        real = self.item_index >= 0
        user, rank = np.nonzero(real)
        return pa.table(
            {
                USER_ID: self.user_ids.take(pa.array(user)),
                "rank": pa.array(rank.astype(np.int32) + np.int32(1)),
                ITEM_ID: self.catalogue_ids.take(pa.array(self.item_index[real])),
                "score": pa.array(self.scores[real]),
            }
        )
