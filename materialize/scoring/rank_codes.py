"""Turn every test of a forest into one comparison of small integers: ``code[row] < threshold``.

A forest compares a feature with a few hundred thresholds at most. All that a test can learn from a value
is how many of them it reaches, so that count, the value's *rank*, takes its place (``t`` ascending)::

    x < t[j]   ⟺   (number of thresholds that are ≤ x) < j + 1

A feature has one row of codes per way of treating the missing value: a code above all thresholds where the
default is right, below all where it is left. A categorical test has a row of its own: 0 goes left, 1 goes right.
So kernels know neither NaN nor categories, and 16 bits do for a value.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from materialize.scoring.kernels_encoding import MISSING_LEFT, MISSING_RIGHT, encode_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from materialize.scoring.forest import Forest

NEVER_REACHED = 32767
"""A threshold that every code is below."""
_CHUNK = 32765
"""Thresholds per row: more than that, with a feature's exact splits, continue in another row."""


@dataclass(frozen=True)
class RankCodes:
    """How rows of codes are made from features; R rows, sorted by feature.

    Attributes:
        feature: int32[R], index in the booster.
        missing: int16[R], code of a missing value.
        categorical: bool[R].
        bound_start: int64[R + 1], where each row's bounds begin.
        bound: float32, ascending in a row: thresholds, or the codes that a categorical test sends right.
    """

    feature: NDArray[np.int32]
    missing: NDArray[np.int16]
    categorical: NDArray[np.bool_]
    bound_start: NDArray[np.int64]
    bound: NDArray[np.float32]

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All arrays by name, as they are saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return len(self.feature)

    def encode(
        self,
        rows: Sequence[int],
        features: Sequence[int],
        values: NDArray[np.float32],
        out: NDArray[np.int16] | None = None,
    ) -> NDArray[np.int16]:
        """Codes of some rows: int16[len(rows), n].

        Args:
            rows: Which ones.
            features: Indices of the features whose values are given; others are missing throughout.
            values: float32[len(features), n].
            out: Is written and returned, if it is given.
        """
        column = {feature: c for c, feature in enumerate(features)}
        which = np.array([column.get(int(self.feature[r]), -1) for r in rows], np.int32)
        out = np.empty((len(rows), values.shape[1]), np.int16) if out is None else out
        encode_rows(
            values,
            np.asarray(rows, np.int32),
            which,
            self.missing,
            self.categorical,
            self.bound_start,
            self.bound,
            out,
        )
        return out


def rank_codes(forest: Forest) -> tuple[RankCodes, NDArray[np.int32], NDArray[np.int16]]:
    """Number the rows of a forest's tests.

    Returns:
        The rows; int32[N], the row that each node tests (-1: a leaf); int16[N], its threshold: a pair goes left
        when the code is below it.
    """
    builder = _Rows()
    node_row = np.full(len(forest.left), -1, np.int32)
    node_threshold = np.full(len(forest.left), NEVER_REACHED, np.int16)
    inner = forest.left >= 0
    numeric = inner & (forest.category_set < 0)
    for f in range(forest.features):
        tested = np.flatnonzero(numeric & (forest.feature == f))
        thresholds = np.unique(forest.threshold[tested])
        for default_left in (False, True):
            nodes = tested[forest.default_left[tested] == default_left]
            positions = np.searchsorted(thresholds, forest.threshold[nodes])
            for chunk in np.unique(positions // _CHUNK):
                here = positions // _CHUNK == chunk
                missing = MISSING_LEFT if default_left else MISSING_RIGHT
                node_row[nodes[here]] = builder.add(
                    f, missing, thresholds[chunk * _CHUNK : (chunk + 1) * _CHUNK], categorical=False
                )
                node_threshold[nodes[here]] = positions[here] % _CHUNK + 1
        for node in np.flatnonzero(inner & (forest.category_set >= 0) & (forest.feature == f)):
            codes = forest.category_sets[forest.category_set[node]].astype(np.float32)
            node_row[node] = builder.add(f, 0 if forest.default_left[node] else 1, codes, categorical=True)
            node_threshold[node] = 1
    return builder.codes(), node_row, node_threshold


class _Rows:
    """Rows in order of addition, equal ones once."""

    def __init__(self) -> None:
        self._number: dict[tuple[int, int, bytes, bool], int] = {}

    def add(self, feature: int, missing: int, bounds: NDArray[np.float32], *, categorical: bool) -> int:
        key = (feature, missing, bounds.astype(np.float32).tobytes(), categorical)
        return self._number.setdefault(key, len(self._number))

    def codes(self) -> RankCodes:
        keys = list(self._number)
        bounds = [np.frombuffer(raw, np.float32) for _, _, raw, _ in keys]
        return RankCodes(
            feature=np.array([key[0] for key in keys], np.int32),
            missing=np.array([key[1] for key in keys], np.int16),
            categorical=np.array([key[3] for key in keys], np.bool_),
            bound_start=np.concatenate([[0], np.cumsum([len(b) for b in bounds], dtype=np.int64)]).astype(
                np.int64
            ),
            bound=np.concatenate([np.empty(0, np.float32), *bounds]),
        )
