"""Compiled selection of the best k items of each user from a block of scores."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _precedes(score_a, item_a, score_b, item_b):  # type: ignore[no-untyped-def]
    """Higher scores first; equal scores in order of the items."""
    return score_a > score_b or (score_a == score_b and item_a < item_b)


@njit(cache=True, nogil=True)
def _keep_best(scores, items, count, k):  # type: ignore[no-untyped-def]
    """Quickselect: bring the best ``k`` of ``count`` entries to the front, in any order."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) >> 1
        s, i = scores[middle], items[middle]
        a, b = low, high
        while a <= b:
            while _precedes(scores[a], items[a], s, i):
                a += 1
            while _precedes(s, i, scores[b], items[b]):
                b -= 1
            if a <= b:
                scores[a], scores[b] = scores[b], scores[a]
                items[a], items[b] = items[b], items[a]
                a += 1
                b -= 1
        if k - 1 <= b:
            high = b
        elif k - 1 >= a:
            low = a
        else:
            break


@njit(cache=True, nogil=True)
def _sort(scores, items, count):  # type: ignore[no-untyped-def]
    """Heap sort, best first."""
    for start in range(count // 2 - 1, -1, -1):
        _sift(scores, items, start, count)
    for end in range(count - 1, 0, -1):
        scores[0], scores[end] = scores[end], scores[0]
        items[0], items[end] = items[end], items[0]
        _sift(scores, items, 0, end)


@njit(cache=True, nogil=True)
def _sift(scores, items, start, end):  # type: ignore[no-untyped-def]
    parent = start
    while 2 * parent + 1 < end:
        child = 2 * parent + 1
        if child + 1 < end and _precedes(scores[child], items[child], scores[child + 1], items[child + 1]):
            child += 1
        if not _precedes(scores[parent], items[parent], scores[child], items[child]):
            return
        scores[parent], scores[child] = scores[child], scores[parent]
        items[parent], items[child] = items[child], items[parent]
        parent = child


@njit(cache=True, nogil=True)
def hide(score, excluded_start, excluded_item, eligible, segment):  # type: ignore[no-untyped-def]
    """Set to -inf what a user must not get.

    Args:
        score: float32[I, lanes], changed.
        excluded_start: int64[lanes + 1], exclusions of each lane.
        excluded_item: int32[exclusions].
        eligible: bool[S, I]; S = 0: everything is.
        segment: int32[lanes], each lane's row of ``eligible``.
    """
    for b in range(len(excluded_start) - 1):
        for e in range(excluded_start[b], excluded_start[b + 1]):
            score[excluded_item[e], b] = -np.inf
    if eligible.shape[0] > 0:
        for i in range(score.shape[0]):
            for b in range(score.shape[1]):
                if not eligible[segment[b], i]:
                    score[i, b] = -np.inf


@njit(cache=True, nogil=True)
def select_top(score, lanes, k, out_item, out_score, out_count):  # type: ignore[no-untyped-def]
    """The best ``k`` items of each lane; -inf is never one.

    Args:
        score: float32[I, width].
        lanes: How many of them are users.
        k: At most so many.
        out_item: int32[lanes, k], written; -1 beyond the count.
        out_score: float32[lanes, k], written; NaN beyond the count.
        out_count: int32[lanes], written.
    """
    items, width = score.shape
    room = k + max(k, 64)
    scores, chosen = np.empty((width, room), np.float32), np.empty((width, room), np.int32)
    counts, bounds = np.zeros(width, np.int64), np.full(width, -np.inf, np.float32)
    bounds[lanes:] = np.inf
    for i in range(items):
        passes = 0
        for b in range(width):
            passes += score[i, b] > bounds[b]
        if passes == 0:
            continue
        for b in range(width):
            if score[i, b] > bounds[b]:
                n = counts[b]
                scores[b, n], chosen[b, n] = score[i, b] + np.float32(0), i  # +0: no -0 among scores
                counts[b] = n + 1
                if n + 1 == room:
                    _keep_best(scores[b], chosen[b], room, k)
                    counts[b] = k
                    bounds[b] = scores[b, :k].min()
    for b in range(lanes):
        n = counts[b]
        if n > k:
            _keep_best(scores[b], chosen[b], n, k)
            n = k
        _sort(scores[b], chosen[b], n)
        out_item[b, :n], out_score[b, :n] = chosen[b, :n], scores[b, :n]
        out_item[b, n:], out_score[b, n:] = -1, np.nan
        out_count[b] = n
