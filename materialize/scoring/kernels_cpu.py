"""Compiled inner loops of scoring on the CPU: the pass over the rows, the sums, the latent margin."""

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
            left, right = (
                np.uint32(node_left[n]),
                np.uint32(node_right[n]),
            )  # both, so that there is no branch
            chosen = left if codes[np.uint32(node_row[n])] < node_threshold[n] else right
            table[leaves + n - node_start[p]] = table[chosen]
        i = first_item[p]
        while i < last_item[p]:
            at = first_start[p] + i - first_item[p]
            if i + 8 <= last_item[p] and _evenly(root_start, at):
                _add_eight(root, root_start[at], root_start[at + 1] - root_start[at], table, score, i)
                i += 8
                continue
            total = score[i]
            for e in range(root_start[at], root_start[at + 1]):
                total += table[np.uint32(root[e])]  # unsigned: Numba need not look for -1
            score[i] = total
            i += 1


@njit(cache=True, nogil=True, inline="always")
def _evenly(root_start, at):  # type: ignore[no-untyped-def]
    """Whether eight items have the same number of entries."""
    count, even = root_start[at + 1] - root_start[at], True
    for j in range(1, 8):
        even &= root_start[at + j + 1] - root_start[at + j] == count
    return even


@njit(cache=True, nogil=True, inline="always")
def _add_eight(root, first, count, table, score, i):  # type: ignore[no-untyped-def]
    """Add ``count`` entries to each of eight items, side by side, so that no sum waits for its last addition."""
    e = np.uint64(first)
    n = np.uint64(count)
    t0, t1, t2, t3 = score[i], score[i + 1], score[i + 2], score[i + 3]
    t4, t5, t6, t7 = score[i + 4], score[i + 5], score[i + 6], score[i + 7]
    for _ in range(count):
        t0 += table[np.uint32(root[e])]
        t1 += table[np.uint32(root[e + n])]
        t2 += table[np.uint32(root[e + n * np.uint64(2)])]
        t3 += table[np.uint32(root[e + n * np.uint64(3)])]
        t4 += table[np.uint32(root[e + n * np.uint64(4)])]
        t5 += table[np.uint32(root[e + n * np.uint64(5)])]
        t6 += table[np.uint32(root[e + n * np.uint64(6)])]
        t7 += table[np.uint32(root[e + n * np.uint64(7)])]
        e += np.uint64(1)
    score[i], score[i + 1], score[i + 2], score[i + 3] = t0, t1, t2, t3
    score[i + 4], score[i + 5], score[i + 6], score[i + 7] = t4, t5, t6, t7


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
        entry_codes: int16[width, entries].
        codes: int16[lane rows, LANES], written.
    """
    for g in range(groups):
        for w in range(width):
            codes[start + g * width + w, :] = missing[w]
    for b in range(len(user_start) - 1):
        for e in range(user_start[b], user_start[b + 1]):
            for w in range(width):
                codes[start + group[e] * width + w, b] = entry_codes[w, e]
