"""CUDA kernels that mirror the CPU's, with a thread where the CPU has a lane.

Arrays are [rows, users] as on the CPU, so neighbouring threads read neighbouring words. One thread per user fills a
pass's table; one thread per (user, item) adds that item's rows, in the order of the trees; one thread per user keeps
its best k in a heap. No thread waits for another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda as _cuda

cuda: Any = _cuda  # its annotations do not know kernels


@cuda.jit
def start_scores(base, user_latent, item_latent, score):  # type: ignore[no-untyped-def]
    """``score[i, b]`` float32 [I, B] = base + item i · user b; vectors float32 [I, d] and [d, B]."""
    b, i = cuda.grid(2)
    if b < score.shape[1] and i < score.shape[0]:
        total = base
        for d in range(item_latent.shape[1]):
            total += item_latent[i, d] * user_latent[d, b]
        score[i, b] = total


@cuda.jit
def fill_table(leaf_value, node_row, node_threshold, node_left, node_right, codes, table):  # type: ignore[no-untyped-def]
    """One pass over the rows: ``table`` float32[rows, B] of users with ``codes`` int16[lane rows, B]."""
    b = cuda.grid(1)
    if b < table.shape[1]:
        leaves = len(leaf_value)
        for n in range(leaves):
            table[n, b] = leaf_value[n]
        for n in range(len(node_row)):
            goes_left = codes[node_row[n], b] < node_threshold[n]
            table[leaves + n, b] = table[node_left[n], b] if goes_left else table[node_right[n], b]


@cuda.jit
def add_rows(first_item, root_start, root, table, score):  # type: ignore[no-untyped-def]
    """Add an item's rows of a pass to its score; ``root_start`` int64[items of the pass + 1]."""
    b, i = cuda.grid(2)
    if b < score.shape[1] and i + 1 < len(root_start):
        total = score[first_item + i, b]
        for e in range(root_start[i], root_start[i + 1]):
            total += table[root[e], b]
        score[first_item + i, b] = total


@cuda.jit
def keep_starts(lane, item, score, start):  # type: ignore[no-untyped-def]
    """``start[p]`` = score of pair p before the first tree."""
    p = cuda.grid(1)
    if p < len(lane):
        start[p] = score[item[p], lane[p]]


@cuda.jit
def walk_pairs(root, left, right, place, threshold, value, codes, lane, item, start, score):  # type: ignore[no-untyped-def]
    """Score pairs that have values of pair features tree by tree; ``codes`` int16[rows, pairs]."""
    p = cuda.grid(1)
    if p < len(lane):
        total = start[p]
        for t in range(len(root)):
            node = root[t]
            while left[node] >= 0:
                goes_left = codes[place[node], p] < threshold[node]
                node = left[node] if goes_left else right[node]
            total += value[node]
        score[item[p], lane[p]] = total


@cuda.jit
def hide_ineligible(eligible, segment, score):  # type: ignore[no-untyped-def]
    """-inf where ``eligible`` bool[S, I] of the user's ``segment`` int32[B] is false."""
    b, i = cuda.grid(2)
    if b < score.shape[1] and i < score.shape[0] and not eligible[segment[b], i]:
        score[i, b] = -np.inf


@cuda.jit
def hide_excluded(start, item, score):  # type: ignore[no-untyped-def]
    """-inf for each user's exclusions; ``start`` int64[B + 1], ``item`` int32."""
    b = cuda.grid(1)
    if b < score.shape[1]:
        for e in range(start[b], start[b + 1]):
            score[item[e], b] = -np.inf


@cuda.jit(device=True)
def _worse(s, i, t, j):  # type: ignore[no-untyped-def]
    """Whether the entry (score, item) comes after another one: of equal scores the earlier item wins."""
    return s < t or (s == t and i > j)


@cuda.jit(device=True)
def _sift_down(best_score, best_item, b, size):  # type: ignore[no-untyped-def]
    """Let the root sink to its place in the heap, whose worst entry is its root."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(
            best_score[child + 1, b], best_item[child + 1, b], best_score[child, b], best_item[child, b]
        ):
            child += 1
        if _worse(best_score[at, b], best_item[at, b], best_score[child, b], best_item[child, b]):
            break
        s, i = best_score[at, b], best_item[at, b]
        best_score[at, b], best_item[at, b] = best_score[child, b], best_item[child, b]
        best_score[child, b], best_item[child, b] = s, i
        at = child


@cuda.jit
def select_top(score, order, best_score, best_item, count):  # type: ignore[no-untyped-def]
    """The best k of each user, best first: float32 and int32[k, B], of which ``count`` int32[B] are real."""
    b = cuda.grid(1)
    if b >= score.shape[1]:
        return
    k, size = best_score.shape[0], 0
    for row in range(score.shape[0]):
        s, i = score[row, b] + np.float32(0), order[row]  # -0 becomes 0
        if s == -np.inf or (size == k and _worse(s, i, best_score[0, b], best_item[0, b])):
            continue
        if size == k:
            best_score[0, b], best_item[0, b] = s, i
            _sift_down(best_score, best_item, b, size)
            continue
        at = size
        size += 1
        while at > 0 and _worse(s, i, best_score[(at - 1) // 2, b], best_item[(at - 1) // 2, b]):
            best_score[at, b], best_item[at, b] = best_score[(at - 1) // 2, b], best_item[(at - 1) // 2, b]
            at = (at - 1) // 2
        best_score[at, b], best_item[at, b] = s, i
    count[b] = size
    while size > 1:  # the worst goes behind all others
        size -= 1
        s, i = best_score[0, b], best_item[0, b]
        best_score[0, b], best_item[0, b] = best_score[size, b], best_item[size, b]
        best_score[size, b], best_item[size, b] = s, i
        _sift_down(best_score, best_item, b, size)
