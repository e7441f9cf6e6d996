"""Compiled inner loops of binding: hash-consing of selections, and counting distinct combinations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments


@njit(cache=True, nogil=True, inline="always")
def _hash(a, b, c, d, mask):  # type: ignore[no-untyped-def]
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ np.uint64(b)) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(c)) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(32)) ^ np.uint64(d)) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((h >> np.uint64(33)) & np.uint64(mask))


@njit(cache=True, nogil=True)
def intern_selects(slots, nodes, count, leaves, stale, lanes, threshold, left, right, out):  # type: ignore[no-untyped-def]
    """Row numbers of selections, adding those that are new.

    Args:
        slots: int32[power of two], open addressing; node number + 1, or 0.
        nodes: int32[4, room]: row, threshold, left, right.
        count: Nodes there are.
        leaves: Row number of node 0; row 0 is the zero.
        stale: Whether the slots must first be filled from the nodes.
        lanes, left, right: int32[n]; -1 on a side is absent.
        threshold: Of all of them.
        out: int32[n], written.

    Returns:
        The new count; or ``-1 - count`` when there was no room for all (call again with more).
    """
    mask = len(slots) - 1
    if stale:
        for n in range(count):
            s = _hash(nodes[0, n], nodes[1, n], nodes[2, n], nodes[3, n], mask)
            while slots[s] != 0:
                s = (s + 1) & mask
            slots[s] = n + 1
    for i in range(len(lanes)):
        a, b = left[i], right[i]
        if a == b:
            out[i] = a
            continue
        a, b = max(a, 0), max(b, 0)
        if a == b:  # zero on one side, absent on the other
            out[i] = -1
            continue
        s = _hash(lanes[i], threshold, a, b, mask)
        while True:
            n = slots[s] - 1
            if n < 0:
                if count == nodes.shape[1]:
                    return -1 - count
                nodes[0, count], nodes[1, count], nodes[2, count], nodes[3, count] = lanes[i], threshold, a, b
                slots[s] = count + 1
                n = count
                count += 1
                break
            if nodes[0, n] == lanes[i] and nodes[1, n] == threshold and nodes[2, n] == a and nodes[3, n] == b:
                break
            s = (s + 1) & mask
        out[i] = leaves + n
    return count


@njit(cache=True, nogil=True)
def count_distinct(lanes, left, right):  # type: ignore[no-untyped-def]
    """Numbers of distinct (lane, left, right), (lane, left) and (lane, right)."""
    size = 64
    while size < 2 * len(lanes):
        size *= 2
    counts = np.zeros(3, np.int64)
    slots = np.empty((size, 3), np.int32)
    for which in range(3):
        slots[:, 0] = -1
        for i in range(len(lanes)):
            a = left[i] if which != 2 else np.int32(0)
            b = right[i] if which != 1 else np.int32(0)
            s = _hash(lanes[i], a, b, 0, size - 1)
            while slots[s, 0] != -1 and not (
                slots[s, 0] == lanes[i] and slots[s, 1] == a and slots[s, 2] == b
            ):
                s = (s + 1) & (size - 1)
            if slots[s, 0] == -1:
                slots[s, 0], slots[s, 1], slots[s, 2] = lanes[i], a, b
                counts[which] += 1
    return counts[0], counts[1], counts[2]
