"""Compiled turning of feature values into rank codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit as _njit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments

MISSING_RIGHT, MISSING_LEFT = 32766, -1
"""Codes of missing values, above and below every threshold."""


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
    for r in range(len(rows)):
        row = rows[r]
        first, last = bound_start[row], bound_start[row + 1]
        for i in range(values.shape[1] if column[r] >= 0 else out.shape[1]):
            if column[r] < 0 or np.isnan(values[column[r], i]):
                out[r, i] = missing[row]
                continue
            x = values[column[r], i]
            if categorical[row]:
                # XGBoost: a code loses its fraction; negative and huge codes are in no set.
                if x >= 16777216 or x < 0:
                    out[r, i] = 0
                    continue
                x = np.float32(np.int64(x))
            low, high = first, last
            while low < high:  # how many bounds are <= x
                middle = (low + high) >> 1
                if bound[middle] <= x:
                    low = middle + 1
                else:
                    high = middle
            out[r, i] = low - first if not categorical[row] else (low > first and bound[low - 1] == x)


@njit(cache=True, nogil=True)
def natural_log(x):  # type: ignore[no-untyped-def]
    """The C library's logarithm of a float32: XGBoost's, to the last bit; numpy's has its own rounding."""
    return math.log(x)
