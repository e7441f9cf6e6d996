"""Compiled walk of whole trees by single pairs, for the few that have values of pair features.

Eight pairs walk the same tree side by side, always as many steps as the tree is deep; at a leaf a step stays where
it is. So the processor has eight independent chains of loads, and no branch to mispredict.

A node is one uint64: ``left child << 37 | place in the whole vector << 16 | threshold``; the right child follows the
left one. Codes and thresholds are raised by one, to be unsigned. A leaf is its own left child, behind a threshold
that no code reaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments
BATCH = 64
"""Pairs whose vectors of codes are at hand together."""
MOST_NODES, MOST_ROWS = 2**27, 2**21
_LEAF = np.uint64(0xFFFF)
_ROWS = np.uint64(MOST_ROWS - 1)


@njit(cache=True, nogil=True)
def lay_out_walk(root, left, right, place, threshold, value, nodes, first, depth, leaf_value):  # type: ignore[no-untyped-def]
    """Pack a forest for the walk, each tree level by level.

    Args:
        root: int32[T]; ``left, right, place`` int32[N], ``threshold`` int16[N], ``value`` float32[N]: the forest.
        nodes: uint64[N], written.
        first: uint64[T], written: where each tree begins.
        depth: int64[T], written.
        leaf_value: float32[N], written: values in the new numbering.
    """
    queue = np.empty(len(nodes), np.int32)
    used = 0
    for t in range(len(root)):
        first[t] = used
        queue[used] = root[t]
        head, end, level_end = used, used + 1, used + 1
        depth[t] = 0
        while head < end:
            if head == level_end:
                depth[t] += 1
                level_end = end
            node = queue[head]
            if left[node] < 0:
                nodes[head] = np.uint64(head) << np.uint64(37) | _LEAF
                leaf_value[head] = value[node]
            else:
                packed = np.uint64(place[node]) << np.uint64(16) | np.uint64(threshold[node] + 1)
                nodes[head] = np.uint64(end) << np.uint64(37) | packed
                leaf_value[head] = 0
                queue[end], queue[end + 1] = left[node], right[node]
                end += 2
            head += 1
        used = end


@njit(cache=True, nogil=True, inline="always")
def _step(node, nodes, codes, base):  # type: ignore[no-untyped-def]
    packed = nodes[node]
    code = np.uint64(codes[base + (packed >> np.uint64(16) & _ROWS)])
    return (packed >> np.uint64(37)) + np.uint64(code >= packed & _LEAF)


@njit(cache=True, nogil=True)
def _walk(nodes, first, depth, leaf_value, codes, width, count, total):  # type: ignore[no-untyped-def]
    """Add all trees to ``total`` float32[BATCH]; ``codes`` uint16[BATCH * width], of which ``count`` vectors are real."""
    w = np.uint64(width)
    for t in range(len(first)):
        for p in range(0, count, 8):
            b = np.uint64(p) * w
            n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = first[t]
            for _ in range(depth[t]):
                n0 = _step(n0, nodes, codes, b)
                n1 = _step(n1, nodes, codes, b + w)
                n2 = _step(n2, nodes, codes, b + w * np.uint64(2))
                n3 = _step(n3, nodes, codes, b + w * np.uint64(3))
                n4 = _step(n4, nodes, codes, b + w * np.uint64(4))
                n5 = _step(n5, nodes, codes, b + w * np.uint64(5))
                n6 = _step(n6, nodes, codes, b + w * np.uint64(6))
                n7 = _step(n7, nodes, codes, b + w * np.uint64(7))
            total[p] += leaf_value[n0]
            total[p + 1] += leaf_value[n1]
            total[p + 2] += leaf_value[n2]
            total[p + 3] += leaf_value[n3]
            total[p + 4] += leaf_value[n4]
            total[p + 5] += leaf_value[n5]
            total[p + 6] += leaf_value[n6]
            total[p + 7] += leaf_value[n7]


@njit(cache=True, nogil=True)
def gather_codes(  # type: ignore[no-untyped-def]
    lanes, section_start, section_width, section_group, item_codes, lane, item, pair_codes, out
):
    """Write the whole vector of one pair, raised by one: ``out`` uint16; the rest as in :func:`rescore_pairs`."""
    at = 0
    for s in range(len(section_width)):
        row = section_start[s] + section_group[s, item] * section_width[s]
        for n in range(section_width[s]):
            out[at] = lanes[row + n, lane] + 1
            at += 1
    for n in range(item_codes.shape[1]):
        out[at] = item_codes[item, n] + 1
        at += 1
    for n in range(len(pair_codes)):
        out[at] = pair_codes[n] + 1
        at += 1


@njit(cache=True, nogil=True)
def gather_all(  # type: ignore[no-untyped-def]
    lanes, section_start, section_width, section_group, item_codes, pair_lane, pair_item, pair_codes, out
):
    """:func:`gather_codes` of many pairs: ``out`` uint16[pairs, rows]."""
    for p in range(len(pair_lane)):
        gather_codes(
            lanes, section_start, section_width, section_group, item_codes, pair_lane[p], pair_item[p],
            pair_codes[p], out[p],
        )  # fmt: skip


@njit(cache=True, nogil=True)
def rescore_pairs(  # type: ignore[no-untyped-def]
    nodes, first, depth, leaf_value, lanes, section_start, section_width, section_group, item_codes,
    pair_lane, pair_item, pair_codes, start, score,
):  # fmt: skip
    """Score again the pairs of a block that have values of pair features; the last of equal pairs counts.

    Args:
        nodes: This and the next three are what :func:`lay_out_walk` wrote.
        lanes: int16[lane rows, LANES], the users' codes.
        section_start: int32[S], first lane row of each section (user, group columns).
        section_width: int32[S], rows of the section.
        section_group: int32[S, I], group of each item in the section; 0 in the user section.
        item_codes: int16[I, item rows].
        pair_lane: int64[pairs].
        pair_item: int32[pairs].
        pair_codes: int16[pairs, pair rows].
        start: float32[pairs], base or latent margin.
        score: float32[I, LANES], overwritten at the pairs.
    """
    width = item_codes.shape[1] + pair_codes.shape[1]
    for s in range(len(section_width)):
        width += section_width[s]
    codes = np.zeros(BATCH * width, np.uint16)
    total = np.zeros(BATCH, np.float32)
    for begin in range(0, len(pair_item), BATCH):
        count = min(BATCH, len(pair_item) - begin)
        for p in range(count):
            gather_codes(
                lanes, section_start, section_width, section_group, item_codes, pair_lane[begin + p],
                pair_item[begin + p], pair_codes[begin + p], codes[p * width : (p + 1) * width],
            )  # fmt: skip
            total[p] = start[begin + p]
        _walk(nodes, first, depth, leaf_value, codes, width, count, total)
        for p in range(count):
            score[pair_item[begin + p], pair_lane[begin + p]] = total[p]
