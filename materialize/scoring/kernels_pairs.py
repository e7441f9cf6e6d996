"""Compiled scoring of single pairs, for the few that have values of pair features: pairs are lanes, a tree is selections.

For a pair everything is known, as everything of a user is when the items are bound. So 64 pairs are scored as 64
users are: their codes stand side by side, and one pass over a tree's nodes, children first, selects between the
children's rows, without a branch. A node above two leaves selects between two numbers::

    row[node] = select(code < threshold, left value, right value)        64 lanes each
    row[node] = select(code < threshold, row[left], row[right])

All nodes of a tree are looked at, though each pair would pass only as many as the tree is deep; 64 lanes more than make
up for it, up to some hundreds of nodes. Trees with more are walked (:mod:`~materialize.scoring.kernels_walk`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

from materialize.scoring.kernels_simd import LANES, select_row, select_value, transpose
from materialize.scoring.kernels_walk import pack_tree, walk_tree

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments
NODES_PER_LEVEL = 24
"""So many selections, for 64 pairs, cost about as much as one step of 64 walks."""


@njit(cache=True, nogil=True)
def lay_out_pairs(  # type: ignore[no-untyped-def]
    root, left, right, place, threshold, value, depth, walk_first, walk_node, walk_value,
    leaf_start, leaf_value, low_start, low_row, low_threshold, low_left, low_right,
    node_start, node_row, node_threshold, node_left, node_right,
):  # fmt: skip
    """Lay out a forest as a :class:`~materialize.scoring.pair_forest.PairForest`, whose arrays are written.

    Args:
        root: int32[T]; ``left, right, place`` int32[N], ``threshold`` int16[N], ``value`` float32[N]: the forest.
        depth: This and the rest are the arrays of the result; those that follow a start have room for N.
    """
    queue, row = np.empty(len(left), np.int32), np.empty(len(left), np.int32)
    child = np.empty(len(left), np.int64)
    leaf_start[0] = low_start[0] = node_start[0] = 0
    leaves = lows = nodes = end = 0
    for t in range(len(root)):
        begin = walk_first[t] = end
        depth[t] = 0
        queue[end] = root[t]
        end += 1
        at = level_end = begin
        while at < end:  # level by level
            if at == level_end:
                depth[t] += at > begin
                level_end = end
            node = queue[at]
            child[at] = end
            if left[node] >= 0:
                queue[end], queue[end + 1] = left[node], right[node]
                end += 2
            at += 1
        inner = (end - begin) // 2
        if inner > NODES_PER_LEVEL * depth[t]:
            pack_tree(queue, child, begin, end, left, place, threshold, value, walk_node, walk_value)
        else:
            depth[t] = 0
            first_leaf, first_low = leaves, lows
            for at in range(begin, end):  # leaves beside a test, or without one
                node = queue[at]
                beside = at == begin or left[queue[at + 1 if (at - begin) % 2 else at - 1]] >= 0
                if left[node] < 0 and beside:
                    leaf_value[leaves], row[at] = value[node], leaves - first_leaf
                    leaves += 1
            for at in range(begin, end):  # tests between two leaves
                node = queue[at]
                if left[node] >= 0 and left[left[node]] < 0 and left[right[node]] < 0:
                    low_row[lows], low_threshold[lows] = place[node], threshold[node]
                    low_left[lows], low_right[lows] = value[left[node]], value[right[node]]
                    row[at] = leaves - first_leaf + lows - first_low
                    lows += 1
            rows = leaves - first_leaf + lows - first_low
            for at in range(end - 1, begin - 1, -1):  # the others, children first
                node = queue[at]
                if left[node] >= 0 and (left[left[node]] >= 0 or left[right[node]] >= 0):
                    node_row[nodes], node_threshold[nodes] = place[node], threshold[node]
                    node_left[nodes], node_right[nodes] = row[child[at]], row[child[at] + 1]
                    row[at] = rows
                    rows += 1
                    nodes += 1
        leaf_start[t + 1], low_start[t + 1], node_start[t + 1] = leaves, lows, nodes


@njit(cache=True, nogil=True)
def turn_lanes(lanes, by_user):  # type: ignore[no-untyped-def]
    """Write each user's codes side by side: ``by_user`` int16[users, at least lane rows + 15] from ``lanes`` [lane rows, users]."""
    rows, users = lanes.shape
    starts, flat, whole = np.empty(8, np.int64), lanes.reshape(-1), users - users % 8
    for row in range(0, rows, 8):
        for user in range(0, whole, 8):
            for j in range(8):
                starts[j] = min(row + j, rows - 1) * users + user
            transpose(flat, starts, 0, by_user, user, row)
    for user in range(whole, users):
        for row in range(rows):
            by_user[user, row] = lanes[row, user]


@njit(cache=True, nogil=True)
def gather_pairs(  # type: ignore[no-untyped-def]
    by_user, section_start, section_width, section_group, item_codes,
    lane, item, pair_codes, first, begin, end, out,
):  # fmt: skip
    """Write the whole vectors of pairs ``begin`` to ``end`` side by side, eight pairs and eight rows at a time.

    Args:
        by_user: This and the next eight are those of :func:`rescore_pairs`.
        out: int16[rows + 8, end - begin rounded up to eights], written; the last eight rows hold nothing.
    """
    starts = np.empty(8, np.int64)
    flat, items = by_user.reshape(-1), item_codes.reshape(-1)
    item_rows = item_codes.shape[1]
    for p in range(begin, end, 8):
        at = 0
        for s in range(len(section_width)):
            for j in range(8):
                q = min(p + j, end - 1)
                row = section_start[s] + section_group[s, item[q]] * section_width[s]
                starts[j] = lane[q] * by_user.shape[1] + row
            for n in range(0, section_width[s], 8):  # the next section overwrites what hangs over
                transpose(flat, starts, n, out, at + n, p - begin)
            at += section_width[s]
        for j in range(8):
            starts[j] = item[min(p + j, end - 1)] * item_rows
        for n in range(0, item_rows, 8):
            transpose(items, starts, n, out, at + n, p - begin)
    at = out.shape[0] - 8 - pair_codes.shape[0]
    for n in range(pair_codes.shape[0]):
        mine, theirs = out[at + n], pair_codes[n, first + begin : first + end]
        for p in range(len(theirs)):
            mine[p] = theirs[p]


@njit(cache=True, nogil=True)
def rescore_pairs(  # type: ignore[no-untyped-def]
    depth, walk_first, walk_node, walk_value,
    leaf_start, leaf_value, low_start, low_row, low_threshold, low_left, low_right,
    node_start, node_row, node_threshold, node_left, node_right,
    by_user, section_start, section_width, section_group, item_codes,
    lane, item, pair_codes, first, start, codes, table, total, score,
):  # fmt: skip
    """Score again the pairs of a block that have values of pair features; the last of equal pairs counts.

    Args:
        depth: This and the next fifteen are the arrays of a :class:`~materialize.scoring.pair_forest.PairForest`.
        by_user: int16[LANES, at least lane rows + 15], the users' codes, from :func:`turn_lanes`.
        section_start: int32[S], first lane row of each section (user, group columns).
        section_width: int32[S], rows of the section.
        section_group: int32[S, I], group of each item in the section; 0 in the user section.
        item_codes: int16[I, item rows], with 8 codes more behind it in memory.
        lane: int64[pairs].
        item: int32[pairs].
        pair_codes: int16[pair rows, pairs of all users].
        first: Which of them is the first pair.
        start: float32[pairs], base or latent margin.
        codes: int16[rows + 8, LANES], scratch.
        table: float32[rows of the widest tree, LANES], scratch.
        total: float32[LANES], scratch.
        score: float32[I, LANES], overwritten at the pairs.
    """
    flat = codes.reshape(-1)
    for begin in range(0, len(item), LANES):
        end = min(begin + LANES, len(item))
        gather_pairs(
            by_user, section_start, section_width, section_group, item_codes, lane, item, pair_codes, first,
            begin, end, codes,
        )  # fmt: skip
        total[: end - begin] = start[begin:end]
        for t in range(len(depth)):
            if depth[t] > 0:
                walk_tree(walk_node, walk_value, walk_first[t], depth[t], flat, end - begin, total)
                continue
            at = leaf_start[t]
            leaves = leaf_start[t + 1] - at
            for n in range(leaves):
                table[n, :] = leaf_value[at + n]
            at = leaves - low_start[t]
            for n in range(low_start[t], low_start[t + 1]):
                select_value(table, at + n, codes, low_row[n], low_threshold[n], low_left[n], low_right[n])
            at += low_start[t + 1] - node_start[t]
            for n in range(node_start[t], node_start[t + 1]):
                select_row(table, at + n, codes, node_row[n], node_threshold[n], node_left[n], node_right[n])
            top = at + node_start[t + 1] - 1
            for b in range(LANES):
                total[b] += table[top, b]
        for p in range(begin, end):
            score[item[p], lane[p]] = total[p - begin]
