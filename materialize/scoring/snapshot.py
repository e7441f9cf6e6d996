"""What a run leaves about a block of users for the next one: their signatures and lists, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.errors import StorageError
from features.schema import USER_ID
from materialize.scoring.checked_file import read_checked, write_checked
from materialize.scoring.encode_inputs import single
from materialize.scoring.kernels_delta import take_rows
from materialize.scoring.top_k import TopK

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_KIND = "snapshot 2"
_SMALL = 2**16 - 1
"""Positions of fewer items are stored as 16 bits; the largest number says that there is no entry."""


@dataclass(frozen=True)
class Snapshot:
    """U users of a run, with lists of up to L entries, all of them certain.

    Attributes:
        items: Digest of the :class:`SignedItems` whose positions the lists hold.
        user_ids: Arrow array[U].
        digests: uint64[U], hashes of the users' values as they were.
        signatures: uint64[U], of what the forest's tests make of them.
        item_index: int32[U, L], position in the catalogue; -1 beyond the count.
        scores: float32[U, L], margins; NaN beyond the count.
        counts: int32[U].
        complete: bool[U], lists that hold every item that the user may be given.
        k: Entries that are published: the first k.
    """

    items: str
    user_ids: pa.Array
    digests: NDArray[np.uint64]
    signatures: NDArray[np.uint64]
    item_index: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]
    complete: NDArray[np.bool_]
    k: int

    def __len__(self) -> int:
        return len(self.user_ids)

    def published(self, item_ids: pa.Array, users: NDArray[np.int64] | None = None) -> TopK:
        """The first k entries of all, or of some users: what a full run would publish.

        Args:
            item_ids: Arrow array[I], ids of the run's items.
            users: int64[n], positions.
        """
        rows = np.arange(len(self)) if users is None else users
        counts = np.minimum(self.counts[rows], self.k).astype(np.int32)
        index, scores = np.empty((len(rows), self.k), np.int32), np.empty((len(rows), self.k), np.float32)
        take_rows(rows, self.item_index, self.scores, index, scores)
        return TopK(self.user_ids.take(pa.array(rows)), index, item_ids, scores, counts)

    def save(self, file: Path, label: str) -> None:
        """Write it to a file, some 6 bytes per entry.

        Args:
            file: Is replaced; its folder is made if need be.
            label: Says whose it is, such as generation and block; asked for when it is read.

        Raises:
            StorageError: If it cannot be written.
        """
        length = self.item_index.shape[1]
        small = len(self) == 0 or int(self.item_index.max(initial=-1)) < _SMALL
        numbers = self.item_index.astype(np.uint16 if small else np.int32)  # -1 becomes 65535
        table = pa.table(
            {
                USER_ID: self.user_ids,
                "digest": self.digests,
                "signature": self.signatures,
                "item": pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), length),
                "score": pa.FixedSizeListArray.from_arrays(pa.array(self.scores.reshape(-1)), length),
                "count": self.counts,
                "complete": self.complete.view(np.uint8),
            }
        )
        write_checked(file, _KIND, table, {"label": label, "items": self.items, "k": str(self.k)})

    @classmethod
    def load(cls, file: Path, label: str) -> Snapshot:
        """Read what :meth:`save` wrote with this label; scores stay on memory-mapped pages.

        Raises:
            StorageError: If the file is not there, damaged, of another version or another's.
        """
        table, facts = read_checked(file, _KIND)
        if facts["label"] != label:
            raise StorageError(f"{file} is another's", expected=label, got=facts["label"])
        length = table.schema.field("item").type.list_size
        numbers = single(table["item"]).flatten().to_numpy()
        if numbers.dtype == np.uint16:
            numbers = (numbers + np.uint16(1)).astype(np.int32) - np.int32(1)
        return cls(
            items=facts["items"],
            user_ids=single(table[USER_ID]),
            digests=table["digest"].to_numpy(),
            signatures=table["signature"].to_numpy(),
            item_index=numbers.reshape(-1, length),
            scores=single(table["score"]).flatten().to_numpy().reshape(-1, length),
            counts=table["count"].to_numpy(),
            complete=table["complete"].to_numpy().view(np.bool_),
            k=int(facts["k"]),
        )
