"""Rows to learn from: values, labels, weights, and the list that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materialize.training.stored_values import StoredValues

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one training set.

    Attributes:
        values: float32[n, features] in schema order; NaN is missing. In memory, or in a file.
        labels: float32[n], 0 or 1.
        weights: float32[n]: how many pairs a row stands for.
        groups: int64[n]: the list (user in a window) a row belongs to; sorted.
    """

    values: NDArray[np.float32] | StoredValues
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, keep: NDArray[np.bool_]) -> TrainingRows:
        """The rows for which ``keep`` is true."""
        values = self.values.where(keep) if isinstance(self.values, StoredValues) else self.values[keep]
        return TrainingRows(values, self.labels[keep], self.weights[keep], self.groups[keep])

    def between(self, start: int, stop: int) -> TrainingRows:
        """Rows from ``start`` to before ``stop``, without a copy."""
        part = np.s_[start:stop]
        return TrainingRows(self.values[part], self.labels[part], self.weights[part], self.groups[part])

    def split(self, n: int) -> list[slice]:
        """``n`` slices of about equal length that cut no group."""
        edges = [0]
        for part in range(1, n):
            wanted = max(edges[-1], len(self) * part // n)
            inside = wanted < len(self)
            edges.append(int(np.searchsorted(self.groups, self.groups[wanted])) if inside else len(self))
        return [slice(a, max(a, b)) for a, b in zip(edges, [*edges[1:], len(self)], strict=True)]
