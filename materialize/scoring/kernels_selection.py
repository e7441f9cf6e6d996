"""Compiled selection of the best k items of each user from a block of scores.

An entry is one uint64, its *key*: the score, made sortable as an integer, over the item's number, inverted. So
the larger key is the better entry, and of two equal scores the earlier item wins. Most items never become one:
a bound for each user, estimated on every eighth item so that about twice k pass, lets whole rows of lanes be
discarded by one comparison. If fewer than k pass for a user after all, that user is scanned again without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

from materialize.scoring.kernels_simd import LANES, bits_of, count_above, float_of, lanes_above, lowest_bit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments

_STEP = 8
_RANKED = 512
"""So many entries are sorted by counting, which has no branch to mispredict; beyond, by comparison."""


@njit(cache=True, nogil=True, inline="always")
def _ordered(value):  # type: ignore[no-untyped-def]
    """uint32 that sorts as the float32 does; -0 counts as +0."""
    bits = bits_of(np.float32(value + np.float32(0)))
    return ~bits & np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else bits | np.uint32(0x80000000)


@njit(cache=True, nogil=True, inline="always")
def _value(ordered):  # type: ignore[no-untyped-def]
    """The float32 that :func:`_ordered` made sortable."""
    if ordered >> np.uint32(31):
        return float_of(np.uint32(ordered & np.uint32(0x7FFFFFFF)))
    return float_of(np.uint32(~ordered & np.uint32(0xFFFFFFFF)))


@njit(cache=True, nogil=True, inline="always")
def entry_key(value, item):  # type: ignore[no-untyped-def]
    """uint64 that sorts entries: higher scores first, then earlier items; the larger key is the better entry."""
    return np.uint64(_ordered(value)) << np.uint64(32) | np.uint64(np.uint32(0xFFFFFFFF) - np.uint32(item))


@njit(cache=True, nogil=True, inline="always")
def _just_below(key):  # type: ignore[no-untyped-def]
    """The largest float32 below a key's score: what is above it may still win, by its place among the items."""
    ordered = np.uint32(key >> np.uint64(32))
    # Below +0 comes -0, which is not less.
    return _value(np.uint32(ordered - np.uint32(2 if ordered == np.uint32(0x80000000) else 1)))


@njit(cache=True, nogil=True)
def _keep_best(keys, count, k):  # type: ignore[no-untyped-def]
    """Quickselect: bring the largest ``k`` of ``count`` keys to the front, in any order."""
    low, high = 0, count - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        a, b = low, high
        while a <= b:
            while keys[a] > pivot:
                a += 1
            while keys[b] < pivot:
                b -= 1
            if a <= b:
                keys[a], keys[b] = keys[b], keys[a]
                a += 1
                b -= 1
        if k - 1 <= b:
            high = b
        elif k - 1 >= a:
            low = a
        else:
            break


@njit(cache=True, nogil=True)
def _write_best(keys, count, k, out_item, out_score):  # type: ignore[no-untyped-def]
    """Write the best ``k`` of ``count`` keys, best first, and return how many there are."""
    if count > _RANKED:
        if count > k:
            _keep_best(keys, count, k)
            count = k
        keys[:count] = np.sort(keys[:count])[::-1]
    most = min(count, k)
    for n in range(count):
        rank = n
        if count <= _RANKED:
            mine = keys[n]
            rank = 0
            for other in range(count):
                rank += keys[other] > mine
        if rank < most:
            out_item[rank] = np.int32(np.uint32(0xFFFFFFFF) - np.uint32(keys[n] & np.uint64(0xFFFFFFFF)))
            out_score[rank] = _value(np.uint32(keys[n] >> np.uint64(32)))
    out_item[most:], out_score[most:] = -1, np.nan
    return most


@njit(cache=True, nogil=True)
def _estimate_bounds(score, lanes, k, bounds, count):  # type: ignore[no-untyped-def]
    """Bisect, for all lanes at once, for bounds that enough of the sampled items are above."""
    fewest = k * 3 // (2 * _STEP) + 5
    most = fewest + max(4, fewest // 4)
    low, high = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    low[:], high[:] = _ordered(np.float32(-np.inf)), _ordered(np.float32(np.inf))
    searching = lanes
    while searching > 0:
        for b in range(lanes):
            bounds[b] = _value(np.uint32(low[b] + (high[b] - low[b]) // np.uint32(2)))
        count_above(score, _STEP, bounds, count)
        searching = 0
        for b in range(lanes):
            middle = np.uint32(low[b] + (high[b] - low[b]) // np.uint32(2))
            if middle == low[b]:
                continue
            if count[b] < fewest:
                high[b] = middle
                searching += 1
            else:
                low[b] = middle
                if count[b] <= most:
                    high[b] = middle
                else:
                    searching += 1
    for b in range(lanes):
        bounds[b] = _value(low[b])


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
def select_top(score, order, bounds, sampled, keys, lanes, k, out_item, out_score, out_count):  # type: ignore[no-untyped-def]
    """The best ``k`` items of each lane; -inf is never one.

    Args:
        score: float32[I, LANES] from :func:`~materialize.scoring.kernels_simd.aligned`.
        order: int32[I], the item of each row of ``score``.
        bounds: float32[LANES] from it as well, scratch.
        sampled: int32[LANES] likewise.
        keys: uint64[LANES, at least k + 1], scratch.
        lanes: How many of them are users.
        k: At most so many.
        out_item: int32[lanes, k], written; -1 beyond the count.
        out_score: float32[lanes, k], written; NaN beyond the count.
        out_count: int32[lanes], written.
    """
    items, room = score.shape[0], keys.shape[1]
    bounds[:lanes], bounds[lanes:] = -np.inf, np.inf
    if items >= 4 * _STEP * k:
        _estimate_bounds(score, lanes, k, bounds, sampled)
    estimated = bounds.copy()
    counts = np.zeros(LANES, np.int64)
    for i in range(items):
        above = lanes_above(score, i, bounds)
        while above != 0:
            b = lowest_bit(above)
            above &= above - np.uint64(1)
            keys[b, counts[b]] = entry_key(score[i, b], order[i])
            counts[b] += 1
            if counts[b] == room:
                _keep_best(keys[b], room, k)
                counts[b] = k
                bounds[b] = _just_below(keys[b, :k].min())
    for b in range(lanes):
        if counts[b] < k and estimated[b] > -np.inf:
            counts[b] = _scan(score[:, b], order, keys[b], k)
        out_count[b] = _write_best(keys[b], counts[b], k, out_item[b], out_score[b])


@njit(cache=True, nogil=True)
def _scan(score, order, keys, k):  # type: ignore[no-untyped-def]
    """Collect the best of one user's scores without an estimate; returns how many keys there are."""
    count, bound = 0, np.float32(-np.inf)
    for i in range(len(score)):
        if score[i] > bound:
            keys[count] = entry_key(score[i], order[i])
            count += 1
            if count == len(keys):
                _keep_best(keys, count, k)
                count = k
                bound = _just_below(keys[:k].min())
    return count


@njit(cache=True, nogil=True)
def select_top_one(score, order, keys, k, out_item, out_score):  # type: ignore[no-untyped-def]
    """The best ``k`` of one user's scores, float32[I]; arguments as in :func:`select_top`. Returns the count."""
    return _write_best(keys, _scan(score, order, keys, k), k, out_item, out_score)
