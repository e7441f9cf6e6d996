"""Compiled inner loops of delta runs: signatures of users and items, and merging lists with changed items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

from materialize.scoring.kernels_selection import entry_key

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments


@njit(cache=True, nogil=True, inline="always")
def _mix(h, value):  # type: ignore[no-untyped-def]
    """One step of a 64-bit hash (the finalizer of SplitMix64)."""
    h = (h ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return h ^ (h >> np.uint64(27))


@njit(cache=True, nogil=True)
def sign_columns(values, signature):  # type: ignore[no-untyped-def]
    """Mix every column of an integer matrix [rows, n] into ``signature`` uint64[n]."""
    for r in range(values.shape[0]):
        for i in range(values.shape[1]):
            signature[i] = _mix(signature[i], np.uint64(np.int64(values[r, i])))


@njit(cache=True, nogil=True)
def sign_entries(salt, start, key, key_hash, codes, missing, signature):  # type: ignore[no-untyped-def]
    """Mix each user's entries into ``signature``, whatever their order; entries that say *missing* do not count.

    Of two entries with one key the last counts, as in the scores.

    Args:
        salt: Tells kinds of entries apart.
        start: int64[U + 1]; ``key`` int32 and ``codes`` int16[rows, n]: the entries.
        key_hash: uint64, stable hash by key.
        missing: int16[rows], codes of an entry that is not there.
        signature: uint64[U], changed.
    """
    seen = np.full(len(key_hash), -1, np.int64)
    for u in range(len(start) - 1):
        total = np.uint64(salt)
        for e in range(start[u + 1] - 1, start[u] - 1, -1):
            if seen[key[e]] == u:
                continue
            seen[key[e]] = u
            h, says = _mix(np.uint64(salt), key_hash[key[e]]), codes.shape[0] == 0
            for c in range(codes.shape[0]):
                h = _mix(h, np.uint64(np.int64(codes[c, e])))
                says = says or codes[c, e] != missing[c]
            if says:
                total += h
        signature[u] = _mix(signature[u], total)


@njit(cache=True, nogil=True)
def sign_rows(user, key, counts, row, signature):  # type: ignore[no-untyped-def]
    """Mix ``row`` uint64[n] into ``signature`` uint64[U] of each row's user, in order.

    ``user`` and ``key`` are int64[n], -1: unknown; ``counts`` bool[keys] says which keys are of account.
    """
    for n in range(len(user)):
        if user[n] >= 0 and key[n] >= 0 and counts[key[n]]:
            signature[user[n]] = _mix(signature[user[n]], row[n])


@njit(cache=True, nogil=True)
def touched(item, count, place, out):  # type: ignore[no-untyped-def]
    """``out`` bool[V]: whether a list holds an item without a place; ``item`` int32[V, L], ``place`` int32."""
    for v in range(len(count)):
        out[v] = False
        for n in range(count[v]):
            out[v] |= place[item[v, n]] < 0


@njit(cache=True, nogil=True, inline="always")
def _differs(old_item, old_score, moved, item, score):  # type: ignore[no-untyped-def]
    """Whether a published list differs from the old one; arrays of one user."""
    same, e = len(old_item) == len(item), 0
    while same and e < len(item):
        same = moved[np.uint32(old_item[e])] == item[e] and old_score[e] == score[e]
        e += 1
    return not same


@njit(cache=True, nogil=True)
def differing(users, was, old_item, old_score, old_count, old_k, moved, item, score, count, k, out):  # type: ignore[no-untyped-def]
    """Which published lists differ from the old ones of the same users.

    Args:
        users: int64[n], whose; ``was`` int64[n], their places among the old lists, -1: none.
        old_item: int32[V, L], ``old_score`` float32[V, L], ``old_count`` int32[V], ``old_k``: the old lists.
        moved: int32[old items], new position of the item with the same id; -1: gone.
        item: int32[U, M], ``score`` float32[U, M], ``count`` int32[U], ``k``: the new lists.
        out: bool[U], written at the users.
    """
    for index in range(len(users)):
        u, v = users[index], was[index]
        n = min(count[u], k)
        m = min(old_count[v], old_k) if v >= 0 else 0
        out[u] = v < 0 or _differs(old_item[v, :m], old_score[v, :m], moved, item[u, :n], score[u, :n])


@njit(cache=True, nogil=True)
def merge_lists(  # type: ignore[no-untyped-def]
    first, last, was, old_item, old_score, old_count, old_complete, place, changed, changed_score, k,
    item, score, count, complete, old_k, moved, differs,
):  # fmt: skip
    """New lists of users that did not change, from their old ones and the scores of the items that did.

    An old list holds the best of the unchanged items, down to its last entry; whatever else did not change comes
    after that. So the new list is certain down to the first changed item that does not beat it.

    Args:
        first, last: Users of the block.
        was: int64[U], users' places among the old lists; -1: leave them.
        old_item: int32[V, L], ``old_score`` float32[V, L], ``old_count`` int32[V]: the old lists.
        old_complete: bool[V], whether an old list holds all items that there were.
        place: int32[old items], new position of an old item; -1: gone or changed.
        changed: int32[C], new positions of changed and new items.
        changed_score: float32[C, LANES], a lane for each user; -inf: must not be given.
        k: Entries that are needed.
        item: int32[U, M] written, with ``score`` float32[U, M] and ``count`` int32[U]; a count of -1 says that
            too little is certain, and the user must be scored in full.
        complete: bool[U], written.
        old_k: Entries that were published.
        moved: int32[old items], new position of the item with the same id; -1: gone.
        differs: bool[U], written: whether the published list differs from the old one.
    """
    length = item.shape[1]
    fresh = np.empty(len(changed), np.uint64)
    origin = np.empty(len(changed), np.int64)
    for lane in range(last - first):
        u = first + lane
        v = was[u]
        if v < 0:
            continue
        n = old_count[v]
        was_item, was_score, now_item, now_score = old_item[v, :n], old_score[v, :n], item[u], score[u]
        bounded = not old_complete[v]
        bound = was_score[n - 1] if n > 0 else np.float32(np.inf)
        f = 0
        for c in range(len(changed)):
            s = changed_score[c, lane]
            if s > -np.inf and (not bounded or s >= bound):
                key, at = entry_key(s, changed[c]), f
                while at > 0 and fresh[at - 1] < key:
                    fresh[at], origin[at] = fresh[at - 1], origin[at - 1]
                    at -= 1
                fresh[at], origin[at] = key, c
                f += 1
        out, a = 0, 0
        for b in range(f + 1):
            # Old entries before the next changed item, or all that are left.
            s = changed_score[origin[b], lane] if b < f else np.float32(-np.inf)
            p = changed[origin[b]] if b < f else 0
            while a < n and out < length:
                q, t = place[np.uint32(was_item[a])], was_score[a]
                if t <= s and q >= 0 and (t < s or q > p):
                    break
                now_item[out], now_score[out] = q, t
                out += q >= 0
                a += 1
            if b == f or out == length or (bounded and s == bound):
                break  # in the last case it ties with items that were never in the list, and may come after them
            now_item[out], now_score[out] = p, s + np.float32(0)
            out += 1
        complete[u] = not bounded and out == f + np.sum(place[was_item] >= 0)  # and everything fitted in
        now_item[out:], now_score[out:] = -1, np.nan
        count[u] = out if out >= k or complete[u] else -1
        m, n = min(n, old_k), min(out, k)
        differs[u] = _differs(was_item[:m], was_score[:m], moved, now_item[:n], now_score[:n])


@njit(cache=True, nogil=True)
def take_rows(rows, item, score, out_item, out_score):  # type: ignore[no-untyped-def]
    """``out_item[n] = item[rows[n], :k]``, and so for scores; int32 and float32 [U, L] into [n, k]."""
    for n in range(len(rows)):
        for e in range(out_item.shape[1]):
            out_item[n, e], out_score[n, e] = item[rows[n], e], score[rows[n], e]
