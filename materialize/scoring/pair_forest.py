"""A forest as single pairs are scored with it: every test reads a row of the pairs' whole vectors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from features.errors import UnsupportedModelError
from materialize.scoring.kernels_pairs import lay_out_pairs
from materialize.scoring.kernels_walk import MOST_NODES, MOST_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest


@dataclass(frozen=True)
class PairForest:
    """T trees; each is walked, or has selections. Selections' rows count within their tree: leaves, low ones, the others.

    Attributes:
        depth: int64[T]; 0: the tree has selections.
        walk_first: int64[T], where the nodes of a tree that is walked begin.
        walk_node, walk_value: uint64 and float32[N], nodes as :mod:`~materialize.scoring.kernels_walk` packs them.
        leaf_start: int64[T + 1], the leaves that need a row: those beside a test.
        leaf_value: float32[L].
        low_start: int64[T + 1], the tests between two leaves.
        low_row: int32, ``low_threshold`` int16, ``low_left`` and ``low_right`` float32: row of the whole vector, and
            the leaves' values, left when the code is below the threshold.
        node_start: int64[T + 1], the other tests, children before parents; the last one is the tree's root.
        node_row: int32, ``node_threshold`` int16, ``node_left`` and ``node_right`` int32: likewise, rows of the tree.
    """

    depth: NDArray[np.int64]
    walk_first: NDArray[np.int64]
    walk_node: NDArray[np.uint64]
    walk_value: NDArray[np.float32]
    leaf_start: NDArray[np.int64]
    leaf_value: NDArray[np.float32]
    low_start: NDArray[np.int64]
    low_row: NDArray[np.int32]
    low_threshold: NDArray[np.int16]
    low_left: NDArray[np.float32]
    low_right: NDArray[np.float32]
    node_start: NDArray[np.int64]
    node_row: NDArray[np.int32]
    node_threshold: NDArray[np.int16]
    node_left: NDArray[np.int32]
    node_right: NDArray[np.int32]

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """All arrays, as kernels take them."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def widest_tree(self) -> int:
        """Rows of the largest tree: the height of a kernel's table."""
        rows = sum(np.diff(start) for start in (self.leaf_start, self.low_start, self.node_start))
        return int(np.max(rows, initial=1))


def pair_forest(forest: CodedForest, layout: CodeLayout) -> PairForest:
    """Lay a forest out for single pairs.

    Raises:
        UnsupportedModelError: If it is too large to be walked.
    """
    trees, count = len(forest.root), len(forest.left)
    if count >= MOST_NODES or layout.rows >= MOST_ROWS:
        raise UnsupportedModelError(
            "the forest is too large for pair features",
            expected=f"fewer than {MOST_NODES} nodes and {MOST_ROWS} rows of codes",
            got=f"{count} nodes, {layout.rows} rows",
        )
    place = np.append(layout.whole_vector(), np.int32(0))[forest.row]
    starts = [np.zeros(trees + 1, np.int64) for _ in range(3)]
    out = PairForest(
        depth=np.zeros(trees, np.int64),
        walk_first=np.zeros(trees, np.int64),
        walk_node=np.zeros(count, np.uint64),
        walk_value=np.zeros(count, np.float32),
        leaf_start=starts[0],
        leaf_value=np.zeros(count, np.float32),
        low_start=starts[1],
        low_row=np.zeros(count, np.int32),
        low_threshold=np.zeros(count, np.int16),
        low_left=np.zeros(count, np.float32),
        low_right=np.zeros(count, np.float32),
        node_start=starts[2],
        node_row=np.zeros(count, np.int32),
        node_threshold=np.zeros(count, np.int16),
        node_left=np.zeros(count, np.int32),
        node_right=np.zeros(count, np.int32),
    )
    lay_out_pairs(forest.root, forest.left, forest.right, place, forest.threshold, forest.value, *out.arrays)
    return out
