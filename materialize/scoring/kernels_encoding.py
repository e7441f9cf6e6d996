"""Compiled turning of feature values into rank codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit as _njit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments

MISSING_RIGHT, MISSING_LEFT = 32766, -1
"""Codes of missing values, above and below every threshold."""
_CHUNK = 64
"""Values that are looked up side by side."""
_FEW = 64
"""So many bounds are sooner counted than bisected, if a chunk is full."""


@njit(cache=True, nogil=True)
def read_floats(values, valid, offset, out):  # type: ignore[no-untyped-def]
    """Read an Arrow array: ``out`` float32[n] from ``values`` float32 or float64, NaN where a bit of ``valid`` is 0.

    ``valid`` is uint8, or empty: all are. Both begin ``offset`` values before the first one.
    """
    if len(valid) == 0:
        for i in range(len(out)):
            out[i] = np.float32(values[np.uint64(offset + i)])
        return
    for i in range(len(out)):
        at = np.uint64(offset + i)
        here = valid[at >> np.uint64(3)] >> np.uint8(at & np.uint64(7)) & np.uint8(1)
        value = np.float32(values[at])
        out[i] = value if here else np.float32(np.nan)


@njit(cache=True, nogil=True, inline="always")
def _same_bounds(a, b, bound_start, bound):  # type: ignore[no-untyped-def]
    """Whether two rows count the same thresholds."""
    size = bound_start[a + 1] - bound_start[a]
    same, n = size == bound_start[b + 1] - bound_start[b], 0
    while same and n < size:
        same = bound[bound_start[a] + n] == bound[bound_start[b] + n]
        n += 1
    return same


@njit(cache=True, nogil=True)
def _count_one_by_one(x, bound, first, bounds, reached):  # type: ignore[no-untyped-def]
    """How many bounds are at most each value of a chunk: bound by bound, all values at once."""
    reached[:] = 0
    for n in range(first, first + bounds):
        for i in range(_CHUNK):
            reached[i] += bound[n] <= x[i]


@njit(cache=True, nogil=True)
def _count_by_bisection(x, bound, first, bounds, reached):  # type: ignore[no-untyped-def]
    """The same: a step for all values, then the next, without a branch."""
    reached[:], size = first, bounds
    while size > 1:
        half = size >> 1
        before = half - 1
        for i in range(_CHUNK):
            reached[i] += np.int32(half) * np.int32(bound[np.uint32(reached[i] + before)] <= x[i])
        size -= half
    for i in range(_CHUNK):
        reached[i] += np.int32(bounds > 0 and bound[np.uint32(reached[i])] <= x[i]) - first


@njit(cache=True, nogil=True)
def _write_codes(x, code, gone, out):  # type: ignore[no-untyped-def]
    """``out[i]`` = the code, or ``gone`` where the value is missing; without a branch."""
    for i in range(len(x)):
        out[i] = gone if x[i] != x[i] else np.int16(code[i])


@njit(cache=True, nogil=True)
def encode_rows(values, rows, column, missing, categorical, bound_start, bound, out):  # type: ignore[no-untyped-def]
    """Codes of some rows.

    Args:
        values: float32[columns, n].
        rows: int32[r], row numbers.
        column: int32[r], their columns in ``values``; -1: missing throughout.
        missing: This and the next three are the arrays of a :class:`RankCodes`.
        out: int16[r, n], written.
    """
    x, reached = np.zeros(_CHUNK, np.float32), np.zeros(_CHUNK, np.int32)
    for r in range(len(rows)):
        row = rows[r]
        first, bounds = np.int32(bound_start[row]), np.int32(bound_start[row + 1] - bound_start[row])
        gone = missing[row]
        if column[r] < 0:
            out[r, :] = gone
            continue
        before = rows[r - 1]
        if (
            r > 0 and column[r - 1] == column[r] and not categorical[row] and not categorical[before]
            and _same_bounds(row, before, bound_start, bound)
        ):  # fmt: skip
            _write_codes(values[column[r]], out[r - 1], gone, out[r])  # they differ in missing values alone
            continue
        for begin in range(0, values.shape[1], _CHUNK):
            some = min(_CHUNK, values.shape[1] - begin)
            for i in range(some):
                x[i] = values[column[r], begin + i]
            if categorical[row]:
                # XGBoost: a code loses its fraction; negative and huge codes are in no set.
                for i in range(some):
                    if not np.isnan(x[i]):
                        x[i] = np.float32(np.int64(x[i])) if 0 <= x[i] < 16777216 else np.float32(-1)
            if bounds <= _FEW and some == _CHUNK:
                _count_one_by_one(x, bound, first, bounds, reached)
            else:
                _count_by_bisection(x, bound, first, bounds, reached)
            if categorical[row]:
                for i in range(some):
                    found = reached[i] > 0 and bound[np.uint32(first + reached[i] - 1)] == x[i]
                    reached[i] = np.int32(found)
            _write_codes(x[:some], reached, gone, out[r, begin : begin + some])


@njit(cache=True, nogil=True)
def natural_log(x):  # type: ignore[no-untyped-def]
    """The C library's logarithm of a float32: XGBoost's, to the last bit; numpy's has its own rounding."""
    return math.log(x)
