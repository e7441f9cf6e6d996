"""Numbers (user, item) pairs, so that sets of them are sorted int64 arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PairCodes:
    """Users and items in a fixed order; the code of a pair is ``user position * items + item position``.

    Attributes:
        users: Ids, distinct.
        items: Ids, distinct.
    """

    users: pa.Array
    items: pa.Array

    def encode(self, pairs: pa.Table) -> NDArray[np.int64]:
        """Codes of the pairs in a table with ``user_id`` and ``item_id``: sorted, distinct, unknown ones left out."""
        return distinct(self.places(pairs)[0])

    def places(self, pairs: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Codes of the known pairs in the order of the table, and which of its rows these are."""
        user = pc.index_in(pairs[USER_ID], value_set=self.users)
        item = pc.index_in(pairs[ITEM_ID], value_set=self.items)
        known = pc.and_(pc.is_valid(user), pc.is_valid(item))
        rows = user.filter(known).to_numpy().astype(np.int64)
        return rows * len(self.items) + item.filter(known).to_numpy(), known.to_numpy()

    def decode(self, codes: NDArray[np.int64]) -> pa.Table:
        """``user_id, item_id`` of codes, in their order."""
        users, items = np.divmod(codes, len(self.items))
        return pa.table(
            {USER_ID: self.users.take(pa.array(users)), ITEM_ID: self.items.take(pa.array(items))}
        )

    def per_user(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of codes of each user: int64[users]."""
        return np.bincount(codes // len(self.items), minlength=len(self.users))


def contains(sorted_codes: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of ``codes`` is among ``sorted_codes``: bool, in the order of ``codes``."""
    if not len(sorted_codes):
        return np.zeros(codes.shape, bool)
    places = np.searchsorted(sorted_codes, codes)
    places[places == len(sorted_codes)] = 0
    return np.asarray(sorted_codes[places] == codes)


def distinct(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes sorted, each once."""
    codes = np.sort(codes)  # np.unique hashes integers, which for millions of codes takes many times as long
    return codes[np.append(True, codes[1:] != codes[:-1])] if len(codes) else codes


def united(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes that are in one of two arrays: sorted, each once."""
    return distinct(np.concatenate([one, other]))


def without(codes: NDArray[np.int64], excluded: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of ``codes`` that are not among others, which are sorted."""
    return codes[~contains(excluded, codes)]
