"""Reads one stored list, the hot loop of every hit: a compiled loop for whole-number ids, one unpack for scores.

Same results as :func:`materialize.publish.feast_format.decode_value`, which reads everything that is not in the
usual form.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numba
import numpy as np

from features.errors import StoreError
from materialize.publish.feast_format import Kind, decode_value

_INT64_LIST: Final = (Kind.INT64_LIST << 3 | 2).to_bytes(1, "little")
_FLOAT_LIST: Final = bytes([Kind.FLOAT_LIST << 3 & 0x7F | 0x82, 0x01])
_FLOATS: Final = [struct.Struct(f"<{n}f").unpack_from for n in range(1001)]
_LONGEST: Final = 10_000


_BYTES: Final = numba.types.Array(numba.uint8, 1, "C", readonly=True)


@numba.njit(numba.int64(_BYTES, numba.int64, numba.int64[::1]), cache=True)
def _read_varints(raw: Any, limit: int, out: Any) -> int:
    """Ids of an Int64List into ``out``; how many, at most ``limit``; -1 if it is not one packed field."""
    position: Any = 1
    shift: Any
    for part in range(2):  # length of the list, then of its packed field
        length, shift, more = 0, 0, True
        while more:
            if position >= len(raw) or shift > 28:
                return -1
            byte = raw[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            more = byte >= 0x80
            position += 1
        if length != len(raw) - position:
            return -1
        if part == 0:
            if position >= len(raw) or raw[position] != 0x0A:
                return -1
            position += 1
    count = 0
    while position < len(raw) and count < limit:
        number: Any = np.uint64(0)  # unsigned, or the compiler would make floats of mixed words
        shift = np.uint64(0)
        more = True
        while more:
            if position >= len(raw) or shift > 63:
                return -1
            byte = raw[position]
            number |= np.uint64(byte & 0x7F) << shift
            shift += np.uint64(7)
            more = byte >= 0x80
            position += 1
        out[count] = np.int64(number)
        count += 1
    return count


_IDS: Final = np.empty(_LONGEST, np.int64)
"""Where ids are put before they become a list; the event loop is the only user."""


def read_ids(raw: bytes, limit: int) -> list[Any]:
    """Item ids of a stored list, best first.

    Args:
        raw: ``ValueProto`` of an Int64List or StringList.
        limit: Read at most so many.

    Raises:
        StoreError: If it is neither.
    """
    if raw[:1] == _INT64_LIST:
        count = _read_varints(np.frombuffer(raw, np.uint8), min(limit, _LONGEST), _IDS)
        if count >= 0:
            ids: list[Any] = _IDS[:count].tolist()
            return ids
    return _list(decode_value(raw, limit))


def read_scores(raw: bytes, limit: int) -> list[Any] | tuple[Any, ...]:
    """Scores of a stored list, in the order of its ids.

    Raises:
        StoreError: If it is no FloatList.
    """
    size = len(raw)
    # Tag of two bytes, length of the list, tag 0x0A, length of the packed floats: lengths are varints, and the
    # outer one takes no fewer bytes than the inner one.
    for head, inner in ((7, 2), (6, 1), (5, 1)):
        count, rest = divmod(size - head, 4)
        if (
            rest == 0
            and 0 <= count <= 1000
            and raw[:2] == _FLOAT_LIST
            and raw[head - inner - 1] == 0x0A
            and _varint(raw, head - inner, inner) == 4 * count
            and _varint(raw, 2, head - inner - 3) == size - (head - inner - 1)
        ):
            return _FLOATS[min(count, limit)](raw, head)
    return _list(decode_value(raw, limit))


def _varint(raw: bytes, position: int, size: int) -> int:
    """Value of a varint of one or two bytes, or -1 if it is of another size."""
    first = raw[position]
    if size == 1:
        return first if first < 0x80 else -1
    second = raw[position + 1]
    return first & 0x7F | second << 7 if first >= 0x80 > second else -1


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise StoreError("a user's predictions are not lists", got=type(value).__name__)
    return value
