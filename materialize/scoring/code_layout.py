"""Where each row of codes lives: in the lanes of a block of users, with the items, or with the pairs.

Lanes hold the user's rows, then for every group column the rows of every group, and one more group for items
without a group, which stays missing::

    user rows | brand: group 0 rows, group 1 rows, ..., no group | category: group 0 rows, ... | ...

The *whole vector* of a pair, for walking trees, is one row of each kind: user | brand | category | item | pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from features.schema import FeatureScope
    from materialize.scoring.rank_codes import RankCodes


@dataclass(frozen=True)
class CodeLayout:
    """Rows by scope. Row numbers are those of :class:`~materialize.scoring.rank_codes.RankCodes`.

    Attributes:
        user, item, pair: Rows of these scopes, in the order in which they are stored.
        affinity: Rows by group column, columns in alphabetical order.
        groups: Number of groups by column (without the one of items that have none).
        rows: Number of rows of all scopes.
    """

    user: tuple[int, ...]
    item: tuple[int, ...]
    pair: tuple[int, ...]
    affinity: dict[str, tuple[int, ...]]
    groups: dict[str, int]
    rows: int

    @property
    def lane_rows(self) -> int:
        """Rows of codes that a block of users has."""
        return len(self.user) + sum(len(rows) * (self.groups[c] + 1) for c, rows in self.affinity.items())

    def affinity_start(self, column: str) -> int:
        """First lane row of a group column; group g follows after g times the column's rows."""
        start = len(self.user)
        for c, rows in self.affinity.items():
            if c == column:
                break
            start += len(rows) * (self.groups[c] + 1)
        return start

    def whole_vector(self) -> NDArray[np.int32]:
        """int32[rows]: place of each row in a pair's whole vector."""
        order = [*self.user, *(r for rows in self.affinity.values() for r in rows), *self.item, *self.pair]
        place = np.zeros(self.rows, np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return place


def lay_out(codes: RankCodes, scopes: Sequence[FeatureScope], groups: Mapping[str, int]) -> CodeLayout:
    """Sort rows by the scope of their feature; ``groups`` counts the groups of each group column."""

    def of(kind: str, group: str = "") -> tuple[int, ...]:
        features = [f for f, s in enumerate(scopes) if s.kind == kind and s.group == group]
        return tuple(np.flatnonzero(np.isin(codes.feature, features)).tolist())

    columns = sorted({s.group for s in scopes if s.kind == "affinity"})
    return CodeLayout(
        user=of("user"),
        item=of("item"),
        pair=of("pair"),
        affinity={c: of("affinity", c) for c in columns},
        groups={c: groups[c] for c in columns},
        rows=len(codes),
    )
