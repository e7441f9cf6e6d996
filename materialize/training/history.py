"""What users did before a cut-off, as sparse matrices: the input of the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from datetime import datetime

    import ibis.expr.types as ir
    from numpy.typing import NDArray

HALF_LIFE_DAYS = 90
"""An event this old counts half in the decayed frequency."""

RECENT_DAYS = 28


@dataclass(frozen=True)
class History:
    """Events of all users with the candidates, before an instant.

    Attributes:
        decayed: float32[users, items]: sum over events of ``0.5 ** (age / 90 days)``.
        counts: float32[users, items]: number of events, same sparsity.
        popularity: float64[items]: number of events.
        recent: float64[items]: number of events in the last 28 days.
        fresh: bool[items]: the first event of anybody lies in the last 28 days, or there is none.
        rows: int64[evaluated users]: their row in the matrices; the last row, which is empty, for users
            without history.
    """

    decayed: sp.csr_matrix
    counts: sp.csr_matrix
    popularity: NDArray[np.float64]
    recent: NDArray[np.float64]
    fresh: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @classmethod
    def read(cls, events: ir.Table, instant: datetime, users: pa.Array, items: pa.Array) -> History:
        """Read it from the events.

        Args:
            events: ``user_id, item_id, event_time``.
            instant: Events before it count.
            users: Ids of the users that are evaluated; others are in the matrices all the same.
            items: Ids of the candidates, in the order of the columns.
        """
        before = events.filter(events.event_time < ibis.literal(instant)).semi_join(
            ibis.memtable(pa.table({ITEM_ID: items})), ITEM_ID
        )
        age = (ibis.literal(instant).epoch_seconds() - before.event_time.epoch_seconds()) / 86400.0
        pairs = (
            before.mutate(weight=(-age * (np.log(2) / HALF_LIFE_DAYS)).exp(), recent=age <= RECENT_DAYS)
            .group_by(USER_ID, ITEM_ID)
            .aggregate(
                decayed=lambda t: t.weight.sum(),
                events=lambda t: t.count(),
                recent=lambda t: t.recent.sum(),
                known=lambda t: (~t.recent).sum(),
            )
            .order_by(USER_ID, ITEM_ID)
            .to_pyarrow()
        )
        everyone = pc.unique(pairs[USER_ID])
        row = pc.index_in(pairs[USER_ID], value_set=everyone).to_numpy()
        column = pc.index_in(pairs[ITEM_ID], value_set=items).to_numpy()
        shape = (len(everyone) + 1, len(items))

        def matrix(name: str) -> sp.csr_matrix:
            values = pairs[name].to_numpy().astype(np.float32)
            return sp.csr_matrix((values, (row, column)), shape=shape)

        def total(name: str) -> NDArray[np.float64]:
            weights = pairs[name].to_numpy().astype(np.float64)
            return np.bincount(column, weights, minlength=len(items)).astype(np.float64)

        rows = pc.fill_null(pc.index_in(users, value_set=everyone), len(everyone)).to_numpy(
            zero_copy_only=False
        )
        return cls(
            matrix("decayed"),
            matrix("events"),
            total("events"),
            total("recent"),
            total("known") == 0,
            rows.astype(np.int64),
        )

    def shares(self) -> NDArray[np.float64]:
        """Share of all users with a history who had each item: float64[items]; half a user where nobody had."""
        users = np.diff(self.counts.tocsc().indptr)
        return np.asarray(np.maximum(users, 0.5) / max(1, self.counts.shape[0] - 1), np.float64)

    def events_per_user(self) -> NDArray[np.float64]:
        """Number of past events of each evaluated user: float64."""
        return np.asarray(self.counts.sum(axis=1)).ravel()[self.rows]
