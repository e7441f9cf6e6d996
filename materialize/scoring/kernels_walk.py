"""Compiled walk through one tree by single pairs, for trees with so many nodes that few of them should be looked at.

Eight pairs walk side by side, always as many steps as the tree is deep; at a leaf a step stays where it is. So the
processor has eight independent chains of loads, and no branch to mispredict.

A node is one uint64: ``left child << 37 | row << 16 | threshold``; the right child follows the left one. Codes and
thresholds are raised by one, to be unsigned. A leaf is its own left child, behind a threshold that no code reaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

from materialize.scoring.kernels_simd import LANES

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments
MOST_NODES, MOST_ROWS = 2**27, 2**21
_LEAF = np.uint64(0xFFFF)
_ROWS = np.uint64(MOST_ROWS - 1)


@njit(cache=True, nogil=True)
def pack_tree(queue, child, begin, end, left, place, threshold, value, nodes, packed_value):  # type: ignore[no-untyped-def]
    """Pack one tree for the walk, level by level.

    Args:
        queue: int32, the tree's nodes level by level from ``begin`` to ``end``, children side by side.
        child: int64, where in the queue each node's left child is.
        left: int32[N], with ``place``, ``threshold`` and ``value``: the forest; ``place`` is the row of a test.
        nodes: uint64, written from ``begin`` to ``end``.
        packed_value: float32, written likewise: values of leaves.
    """
    for at in range(begin, end):
        node = queue[at]
        if left[node] < 0:
            nodes[at] = np.uint64(at) << np.uint64(37) | _LEAF
            packed_value[at] = value[node]
        else:
            packed = np.uint64(place[node]) << np.uint64(16) | np.uint64(threshold[node] + 1)
            nodes[at] = np.uint64(child[at]) << np.uint64(37) | packed
            packed_value[at] = 0


@njit(cache=True, nogil=True, inline="always")
def _step(node, nodes, codes, pair):  # type: ignore[no-untyped-def]
    packed = nodes[node]
    row = packed >> np.uint64(16) & _ROWS
    code = np.uint64(codes[row * np.uint64(LANES) + pair] + 1)
    return (packed >> np.uint64(37)) + np.uint64(code >= packed & _LEAF)


@njit(cache=True, nogil=True)
def walk_tree(nodes, packed_value, root, depth, codes, count, total):  # type: ignore[no-untyped-def]
    """Add one tree to ``total`` float32[LANES] of the first ``count`` pairs; ``codes`` int16[rows * LANES]."""
    for p in range(0, count, 8):
        b = np.uint64(p)
        n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = np.uint64(root)
        for _ in range(depth):
            n0 = _step(n0, nodes, codes, b)
            n1 = _step(n1, nodes, codes, b + np.uint64(1))
            n2 = _step(n2, nodes, codes, b + np.uint64(2))
            n3 = _step(n3, nodes, codes, b + np.uint64(3))
            n4 = _step(n4, nodes, codes, b + np.uint64(4))
            n5 = _step(n5, nodes, codes, b + np.uint64(5))
            n6 = _step(n6, nodes, codes, b + np.uint64(6))
            n7 = _step(n7, nodes, codes, b + np.uint64(7))
        total[p] += packed_value[n0]
        total[p + 1] += packed_value[n1]
        total[p + 2] += packed_value[n2]
        total[p + 3] += packed_value[n3]
        total[p + 4] += packed_value[n4]
        total[p + 5] += packed_value[n5]
        total[p + 6] += packed_value[n6]
        total[p + 7] += packed_value[n7]
