"""Compiled inner loops of scoring on the CPU: the pass over the rows, the sums, the walk, the latent margin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

from materialize.scoring.kernels_simd import add_rows, select_row

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments


@njit(cache=True, nogil=True)
def add_forest(  # type: ignore[no-untyped-def]
    leaf_start, leaf_value, node_start, node_row, node_threshold, node_left, node_right, first_item, last_item, first_start, root_start, root,
    codes, table, score,
):  # fmt: skip
    """Add every tree to ``score``, in order.

    Args:
        leaf_start: This and the next eleven are the arrays of a :class:`ResidualProgram`.
        codes: int16[lane rows, LANES], the users.
        table: float32[widest pass, LANES], scratch.
        score: float32[I, LANES], starts as the base margin or the latent margin.
    """
    for p in range(len(leaf_start) - 1):
        leaves = leaf_start[p + 1] - leaf_start[p]
        for n in range(leaves):
            table[n, :] = leaf_value[leaf_start[p] + n]
        for n in range(node_start[p], node_start[p + 1]):
            at = leaves + n - node_start[p]
            select_row(table, at, codes, node_row[n], node_threshold[n], node_left[n], node_right[n])
        start = first_start[p] - first_item[p]
        for i in range(first_item[p], last_item[p]):
            add_rows(score, i, table, root, root_start[start + i], root_start[start + i + 1])


@njit(cache=True, nogil=True)
def add_forest_one(  # type: ignore[no-untyped-def]
    leaf_start, leaf_value, node_start, node_row, node_threshold, node_left, node_right, first_item, last_item, first_start, root_start, root,
    codes, table, score,
):  # fmt: skip
    """:func:`add_forest` for one user: ``codes`` int16[lane rows], ``table`` float32[rows], ``score`` float32[I]."""
    for p in range(len(leaf_start) - 1):
        leaves = leaf_start[p + 1] - leaf_start[p]
        table[:leaves] = leaf_value[leaf_start[p] : leaf_start[p + 1]]
        for n in range(node_start[p], node_start[p + 1]):
            at = leaves + n - node_start[p]
            table[at] = (
                table[node_left[n]] if codes[node_row[n]] < node_threshold[n] else table[node_right[n]]
            )
        start = first_start[p] - first_item[p]
        for i in range(first_item[p], last_item[p]):
            total = score[i]
            for e in range(root_start[start + i], root_start[start + i + 1]):
                total += table[np.uint32(root[e])]  # unsigned: Numba need not look for -1
            score[i] = total


@njit(cache=True, nogil=True)
def start_latent(user_latent, item_latent, score):  # type: ignore[no-untyped-def]
    """``score[i, b] = item_latent[i] · user_latent[:, b]``; float32 [d, LANES], [I, d], [I, LANES]."""
    for i in range(score.shape[0]):
        for b in range(score.shape[1]):
            score[i, b] = np.float32(0)
        for d in range(item_latent.shape[1]):
            q = item_latent[i, d]
            for b in range(score.shape[1]):
                score[i, b] += q * user_latent[d, b]


@njit(cache=True, nogil=True)
def fill_affinity(start, width, groups, missing, user_start, group, entry_codes, codes):  # type: ignore[no-untyped-def]
    """Write one group column's rows of a block: missing everywhere, then the entries that exist.

    Args:
        start: First lane row of the column.
        width: Rows per group.
        groups: Number of groups, the one of items without a group included.
        missing: int16[width], codes of missing values.
        user_start: int64[users + 1], entries of each lane.
        group: int32[entries].
        entry_codes: int16[entries, width].
        codes: int16[lane rows, LANES], written.
    """
    for g in range(groups):
        for w in range(width):
            codes[start + g * width + w, :] = missing[w]
    for b in range(len(user_start) - 1):
        for e in range(user_start[b], user_start[b + 1]):
            for w in range(width):
                codes[start + group[e] * width + w, b] = entry_codes[e, w]


@njit(cache=True, nogil=True)
def walk_forest(roots, left, right, row, threshold, value, codes, start):  # type: ignore[no-untyped-def]
    """Margin of one pair from its whole vector of codes, tree by tree: the definition of a score."""
    total = start
    for t in range(len(roots)):
        node = roots[t]
        while left[node] >= 0:
            node = left[node] if codes[row[node]] < threshold[node] else right[node]
        total += value[node]
    return total


@njit(cache=True, nogil=True)
def rescore_pairs(  # type: ignore[no-untyped-def]
    roots, left, right, row, threshold, value, codes, lane_start, lane_width, lane_group, item_codes,
    pair_start, pair_item, pair_codes, starts, score,
):  # fmt: skip
    """Score again, exactly, the pairs of a block that have values of pair features.

    Args:
        roots: This and the next five describe the trees; ``row`` is a place in the whole vector.
        codes: int16[lane rows, LANES], the users.
        lane_start: int32[S], first lane row of each section (user, group columns).
        lane_width: int32[S], rows of the section.
        lane_group: int32[S, I], group of each item in the section; 0 for the user section.
        item_codes: int16[I, item rows].
        pair_start: int64[LANES + 1], pairs of each lane.
        pair_item: int32[pairs].
        pair_codes: int16[pairs, pair rows].
        starts: float32[pairs], base or latent margin.
        score: float32[I, LANES], overwritten at the pairs.
    """
    lanes_total = 0
    for s in range(len(lane_width)):
        lanes_total += lane_width[s]
    items_total = item_codes.shape[1]
    whole = np.empty(lanes_total + items_total + pair_codes.shape[1], np.int16)
    for b in range(len(pair_start) - 1):
        for e in range(pair_start[b], pair_start[b + 1]):
            i = pair_item[e]
            at = 0
            for s in range(len(lane_width)):
                first = lane_start[s] + lane_group[s, i] * lane_width[s]
                for w in range(lane_width[s]):
                    whole[at] = codes[first + w, b]
                    at += 1
            whole[at : at + items_total] = item_codes[i]
            whole[at + items_total :] = pair_codes[e]
            score[i, b] = walk_forest(roots, left, right, row, threshold, value, whole, starts[e])
