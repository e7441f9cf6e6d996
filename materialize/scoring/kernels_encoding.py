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
    x, at = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.uint32)
    for r in range(len(rows)):
        row = rows[r]
        first, bounds = np.uint32(bound_start[row]), bound_start[row + 1] - bound_start[row]
        if column[r] < 0:
            out[r, :] = missing[row]
            continue
        for begin in range(0, values.shape[1], _CHUNK):
            some = min(_CHUNK, values.shape[1] - begin)
            x[:some] = values[column[r], begin : begin + some]
            if categorical[row]:
                # XGBoost: a code loses its fraction; negative and huge codes are in no set.
                for i in range(some):
                    if not np.isnan(x[i]):
                        x[i] = np.float32(np.int64(x[i])) if 0 <= x[i] < 16777216 else np.float32(-1)
            # How many bounds are <= x, by bisection: a step for all values of a chunk, then the next, without a branch.
            at[:some], size = first, bounds
            while size > 1:
                half = size >> 1
                before = np.uint32(half - 1)
                for i in range(some):
                    at[i] += np.uint32(half) * np.uint32(bound[np.uint32(at[i] + before)] <= x[i])
                size -= half
            for i in range(some):
                reached = np.uint32(bounds > 0 and bound[at[i]] <= x[i]) + at[i] - first
                if np.isnan(x[i]):
                    out[r, begin + i] = missing[row]
                elif categorical[row]:
                    out[r, begin + i] = reached > 0 and bound[first + reached - np.uint32(1)] == x[i]
                else:
                    out[r, begin + i] = reached


@njit(cache=True, nogil=True)
def natural_log(x):  # type: ignore[no-untyped-def]
    """The C library's logarithm of a float32: XGBoost's, to the last bit; numpy's has its own rounding."""
    return math.log(x)
