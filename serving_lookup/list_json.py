"""Writes a stored list as JSON from the bytes of its row, without making objects of it: compiled, for plain hits.

The text parses to the same numbers as :func:`serving_lookup.answers.encode` gives. A score is a float32; its decimal
expansion is exact, and cut after 18 significant digits, which every JSON reader takes back to the very same number
(a double needs 17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numba
import numpy as np

from materialize.publish.feast_format import Kind
from serving_lookup.answers import JSON, encode

if TYPE_CHECKING:
    from serving_lookup.answers import Answer

_INT64_LIST: Final = Kind.INT64_LIST << 3 | 2
_STRING_LIST: Final = Kind.STRING_LIST << 3 | 2
_FLOAT_LIST_LOW: Final = Kind.FLOAT_LIST << 3 & 0x7F | 0x82
_FLOAT_LIST_HIGH: Final = 1
_ITEM: Final = np.frombuffer(b'{"item_id":', np.uint8)
_SCORE: Final = np.frombuffer(b',"score":', np.uint8)
_LONGEST_ITEM: Final = len(_ITEM) + len(_SCORE) + 20 + 45 + 2
"""Bytes that an item with a whole-number id can take; of a text id, all but the text."""

_DIGITS: Final = 18
_ROOM: Final = 1 << 20
_BYTES: Final = numba.types.Bytes(numba.uint8, 1, "C")
_OUT: Final = np.empty(_ROOM, np.uint8)
"""Where the text is put before it becomes bytes; the event loop is the only user."""


@numba.njit(numba.types.Tuple((numba.int64, numba.int64))(_BYTES, numba.int64), cache=True)  # type: ignore[no-untyped-call]  # numba's
def _varint(raw: Any, at: int) -> Any:
    """A length at a position, and the position after it; -1 if there is none."""
    value, shift = np.int64(0), np.int64(0)
    while at < len(raw) and shift <= 28:
        byte = np.int64(raw[at])
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    return np.int64(-1), at


@numba.njit(numba.int64(numba.uint8[::1], numba.int64, numba.uint64), cache=True)
def _write_whole(out: Any, at: int, number: Any) -> int:
    """Digits of a whole number; the position after them."""
    end = at + 1
    rest = number // np.uint64(10)
    while rest:
        end += 1
        rest //= np.uint64(10)
    position = end
    while position > at:
        position -= 1
        out[position] = np.uint8(48 + number % np.uint64(10))
        number //= np.uint64(10)
    return end


@numba.njit(numba.int64(numba.uint8[::1], numba.int64, numba.uint32), cache=True)
def _write_score(out: Any, at: int, bits: Any) -> int:
    """A float32, given by its bits, in decimal; the position after it, -1 for what needs a general writer."""
    exponent = np.int64(bits >> np.uint32(23) & np.uint32(0xFF))
    mantissa = np.uint64(bits & np.uint32(0x7FFFFF))
    if bits >> np.uint32(31):
        out[at] = 45
        at += 1
    if exponent == 0 and mantissa == 0:
        out[at], out[at + 1], out[at + 2] = 48, 46, 48
        return at + 3
    mantissa |= np.uint64(0x800000)
    scale = 150 - exponent  # the value is mantissa / 2 ** scale
    if exponent == 0 or scale > 60 or scale < -39:
        return -1
    if scale <= 0:
        at = _write_whole(out, at, mantissa << np.uint64(-scale))
        out[at], out[at + 1] = 46, 48
        return at + 2
    shift = np.uint64(scale)
    whole = mantissa >> shift
    rest = mantissa & ((np.uint64(1) << shift) - np.uint64(1))
    start = at
    at = _write_whole(out, at, whole)
    significant = at - start if whole else 0
    out[at] = 46
    at += 1
    first = at
    while at == first or (rest and significant < _DIGITS):
        rest *= np.uint64(10)  # below 2 ** 60, so this fits
        digit = rest >> shift
        rest &= (np.uint64(1) << shift) - np.uint64(1)
        out[at] = np.uint8(48 + digit)
        at += 1
        if significant or digit:
            significant += 1
    return at


@numba.njit(numba.int64(_BYTES, _BYTES, numba.int64, numba.uint8[::1]), cache=True)
def _write_list(ids: Any, scores: Any, wanted: int, out: Any) -> Any:  # noqa: C901, PLR0911, PLR0912, PLR0915 - one pass
    """``wanted`` items, with commas; how many bytes, -1 if the row is not in the usual form or has fewer."""
    if len(ids) < 2 or len(scores) < 3 or (ids[0] != _INT64_LIST and ids[0] != _STRING_LIST):
        return -1
    text = ids[0] == _STRING_LIST
    length, at = _varint(ids, 1)
    if length != len(ids) - at:
        return -1
    if not text:
        if at >= len(ids) or ids[at] != 0x0A:
            return -1
        length, at = _varint(ids, at + 1)
        if length != len(ids) - at:
            return -1
    if scores[0] != _FLOAT_LIST_LOW or scores[1] != _FLOAT_LIST_HIGH:
        return -1
    length, score_at = _varint(scores, 2)
    if length != len(scores) - score_at or score_at >= len(scores) or scores[score_at] != 0x0A:
        return -1
    length, score_at = _varint(scores, score_at + 1)
    if length != len(scores) - score_at or length < 4 * wanted:
        return -1
    end: Any = 0
    for n in range(wanted):
        if at >= len(ids) or end + _LONGEST_ITEM > len(out):
            return -1
        if n:
            out[end] = 44
            end += 1
        for byte in _ITEM:
            out[end] = byte
            end += 1
        if text:
            if ids[at] != 0x0A:
                return -1
            length, at = _varint(ids, at + 1)
            if length < 0 or at + length > len(ids) or end + length + _LONGEST_ITEM > len(out):
                return -1
            out[end] = 34
            end += 1
            for i in range(at, at + length):
                byte = ids[i]
                if byte < 32 or byte in (34, 92):  # needs an escape
                    return -1
                out[end] = byte
                end += 1
            out[end] = 34
            end += 1
            at += length
        else:
            number, shift, more = np.uint64(0), np.uint64(0), True
            while more:
                if at >= len(ids) or shift > 63:
                    return -1
                byte = ids[at]
                number |= np.uint64(byte & 0x7F) << shift
                shift += np.uint64(7)
                more = byte >= 0x80
                at += 1
            if number >> np.uint64(63):
                out[end] = 45
                end += 1
                number = ~number + np.uint64(1)
            end = _write_whole(out, end, number)
        for byte in _SCORE:
            out[end] = byte
            end += 1
        bits = (
            np.uint32(scores[score_at])
            | np.uint32(scores[score_at + 1]) << np.uint32(8)
            | np.uint32(scores[score_at + 2]) << np.uint32(16)
            | np.uint32(scores[score_at + 3]) << np.uint32(24)
        )
        end = _write_score(out, end, bits)
        if end < 0:
            return -1
        score_at += 4
        out[end] = 125
        end += 1
    return end


class ListJson:
    """Answers that differ only in their items and their age.

    Args:
        answer: One of them; its items are left out.
    """

    def __init__(self, answer: Answer) -> None:
        around = encode(answer, JSON)
        head, tail = around.split(b'"items":[]', 1)
        middle, _, rest = tail.partition(b'"age_seconds":')
        self._before, self._between = head + b'"items":[', b"]" + middle + b'"age_seconds":'
        self._after = rest.lstrip(b"0123456789.e+-")

    def write(self, ids: bytes, scores: bytes, k: int, age: float) -> bytes | None:
        """The whole document.

        Args:
            ids: ``ValueProto`` of an Int64List or StringList, best first.
            scores: ``ValueProto`` of the FloatList beside it.
            k: Items to write.
            age: Seconds, at least 0.

        Returns:
            ``None`` if the row has fewer items or is not in the usual form; the general way can tell.
        """
        size = _write_list(ids, scores, k, _OUT)
        if size < 0:
            return None
        return b"%b%b%b%.3f%b" % (self._before, _OUT[:size].tobytes(), self._between, age, self._after)
