"""Compiled loops that write stored lists as items of an answer, JSON or MessagePack, without making objects of them.

A score is a float32. MessagePack has such a type. In JSON it is its exact decimal expansion, cut after 18 significant
digits, which every reader takes back to the very same number (a double needs 17).
MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from materialize.publish.feast_format import Kind

_INT64_LIST: Final = Kind.INT64_LIST << 3 | 2
_STRING_LIST: Final = Kind.STRING_LIST << 3 | 2
_FLOAT_LIST_LOW: Final = Kind.FLOAT_LIST << 3 & 0x7F | 0x82
_FLOAT_LIST_HIGH: Final = 1
# Tuples, whose lengths the compiler knows: it writes them eight bytes at a time.
_ITEM: Final = tuple(b'{"item_id":')
_SCORE: Final = tuple(b',"score":')
_PACKED_ITEM: Final = tuple(b"\x82\xa7item_id")
_PACKED_SCORE: Final = tuple(b"\xa5score\xca")
_LONGEST_ITEM: Final = len(_ITEM) + len(_SCORE) + 20 + 45 + 2
"""Bytes that an item with a whole-number id can take; of a text id, all but the text."""

_DIGITS: Final = 18
_PAIRS: Final = np.frombuffer(b"".join(b"%02d" % pair for pair in range(100)), np.uint8)

_BYTES: Final = numba.types.Bytes(numba.uint8, 1, "C")
_TEXT: Final = numba.uint8[::1]
_ENDS: Final = numba.int64[::1]
_TWO: Final = numba.types.UniTuple(numba.int64, 2)  # type: ignore[no-untyped-call]  # numba has no types here


@numba.njit(cache=True)
def _varint(raw: Any, at: int, end: int) -> Any:
    """A length at a position, and the position after it; -1 if there is none."""
    value, shift = np.int64(0), np.int64(0)
    while at < end and shift <= 28:
        byte = np.int64(raw[at])
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    return np.int64(-1), at


@numba.njit(cache=True)
def _write_digits(out: Any, at: int, number: Any, count: int) -> int:
    """The last digits of a whole number, so many, with zeros before them; the position after them."""
    end = at + count
    position = end
    while position > at:
        position -= 1
        out[position] = np.uint8(np.uint64(48) + number % np.uint64(10))
        number //= np.uint64(10)
    return end


@numba.njit(cache=True)
def _write_nine(out: Any, at: int, number: Any) -> int:
    """Nine digits of a whole number below 10⁹; the position after them."""
    rest = np.uint32(number)
    for place in (7, 5, 3, 1):
        pair = rest % np.uint32(100)
        rest //= np.uint32(100)
        out[at + place], out[at + place + 1] = _PAIRS[2 * pair], _PAIRS[2 * pair + 1]
    out[at] = np.uint8(48 + rest)
    return at + 9


@numba.njit(cache=True)
def _count_digits(number: Any) -> int:
    """Digits of a whole number, at least 1."""
    count = 1
    limit = np.uint64(10)
    while number >= limit and count < 19:
        limit *= np.uint64(10)
        count += 1
    return count + (1 if number >= limit and count == 19 else 0)


@numba.njit(cache=True)
def _write_fraction(out: Any, at: int, rest: Any, shift: Any, significant: int) -> int:
    """Digits of ``rest / 2 ** shift``, at least one, so many ``significant`` ones before them; the position after."""
    first, fraction = at, (np.uint64(1) << shift) - np.uint64(1)
    if shift <= 34:  # there is room for nine digits, of 30 bits, above the fraction
        while at == first or (rest and significant < _DIGITS):
            rest *= np.uint64(10**9)
            digits = rest >> shift
            rest &= fraction
            at = _write_nine(out, at, digits)
            if significant:
                significant += 9
            elif digits:
                significant = _count_digits(digits)
    else:
        while rest and significant < _DIGITS:
            rest *= np.uint64(10)
            digits = rest >> shift
            rest &= fraction
            out[at] = np.uint8(48 + digits)
            at += 1
            if significant or digits:
                significant += 1
    at = max(at - max(significant - _DIGITS, 0), first + 1)
    while at > first + 1 and out[at - 1] == 48:
        at -= 1
    return at


@numba.njit(cache=True)
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
    shift = np.uint64(max(0, scale))  # type: ignore[arg-type]  # an int64
    whole = mantissa >> shift if scale > 0 else mantissa << np.uint64(-scale)
    count = _count_digits(whole)
    at = _write_digits(out, at, whole, count)
    out[at] = 46
    rest = mantissa & ((np.uint64(1) << shift) - np.uint64(1))
    return _write_fraction(out, at + 1, rest, shift, count if whole else 0)


@numba.njit(cache=True)
def _copy(out: Any, at: int, part: Any) -> int:
    """The position after a part of the text."""
    for i in range(len(part)):
        out[at + i] = part[i]
    return at + len(part)


@numba.njit(cache=True)
def _pack_bytes(out: Any, at: int, number: Any, size: int) -> int:
    """The lowest bytes of a number, the highest of them first."""
    for i in range(size):
        out[at + i] = np.uint8(number >> np.uint64(8 * (size - 1 - i)) & np.uint64(0xFF))
    return at + size


@numba.njit(cache=True)
def _pack_whole(out: Any, at: int, number: Any) -> int:
    """An int64, given by its bits, in the shortest form."""
    signed = np.int64(number)
    if -32 <= signed < 128:
        return _pack_bytes(out, at, number, 1)
    size = 1 if -(1 << 7) <= signed < 1 << 8 else 2 if -(1 << 15) <= signed < 1 << 16 else 8
    if size == 8 and -(1 << 31) <= signed < 1 << 32:
        size = 4
    first = 0xCC if signed >= 0 else 0xD0
    out[at] = first + (0 if size == 1 else 1 if size == 2 else 2 if size == 4 else 3)
    return _pack_bytes(out, at + 1, number, size)


@numba.njit(cache=True)
def _pack_length(out: Any, at: int, length: int) -> int:
    """The head of a text; -1 if it is longer than any id."""
    if length < 32:
        out[at] = 0xA0 | length
        return at + 1
    if length < 256:
        out[at], out[at + 1] = 0xD9, length
        return at + 2
    if length > 0xFFFF:
        return -1
    out[at] = 0xDA
    return _pack_bytes(out, at + 1, np.uint64(length), 2)


@numba.njit(cache=True)
def _ids_start(raw: Any, at: int, end: int) -> Any:
    """Where the first id of a list is, and whether ids are texts (1) or whole numbers (0); -1 if it is no list."""
    if end - at < 2 or (raw[at] != _INT64_LIST and raw[at] != _STRING_LIST):
        return -1, 0
    text = 1 if raw[at] == _STRING_LIST else 0
    length, at = _varint(raw, at + 1, end)
    if length != end - at:
        return -1, text
    if not text:
        if at >= end or raw[at] != 0x0A:
            return -1, text
        length, at = _varint(raw, at + 1, end)
        if length != end - at:
            return -1, text
    return at, text


@numba.njit(cache=True)
def _scores_start(raw: Any, at: int, end: int, wanted: int) -> int:
    """Where the first float of a list is; -1 if it is no list of so many."""
    if end - at < 3 or raw[at] != _FLOAT_LIST_LOW or raw[at + 1] != _FLOAT_LIST_HIGH:
        return -1
    length, at = _varint(raw, at + 2, end)
    if length != end - at or at >= end or raw[at] != 0x0A:
        return -1
    length, at = _varint(raw, at + 1, end)
    return at if length == end - at and length >= 4 * wanted else -1


@numba.njit(cache=True)
def _write_text(raw: Any, at: int, end: int, packed: bool, out: Any, to: int) -> Any:  # noqa: FBT001 - compiled
    """The text id at a position; the positions after it in both, -1 if it is odd, too long or needs an escape."""
    if raw[at] != 0x0A:
        return -1, to
    length, at = _varint(raw, at + 1, end)
    if length < 0 or at + length > end or to + length + _LONGEST_ITEM > len(out):
        return -1, to
    if packed:
        to = _pack_length(out, to, length)
        if to < 0:
            return -1, to
    else:
        out[to] = 34
        to += 1
    for i in range(at, at + length):
        byte = raw[i]
        if not packed and (byte < 32 or byte in (34, 92)):
            return -1, to
        out[to] = byte
        to += 1
    if not packed:
        out[to] = 34
        to += 1
    return at + length, to


@numba.njit(cache=True)
def _write_number(raw: Any, at: int, end: int, packed: bool, out: Any, to: int) -> Any:  # noqa: FBT001 - compiled
    """The whole-number id at a position; the positions after it in both, -1 if it is odd."""
    number, shift, more = np.uint64(0), np.uint64(0), True
    while more:
        if at >= end or shift > 63:
            return -1, to
        byte = raw[at]
        number |= np.uint64(byte & 0x7F) << shift
        shift += np.uint64(7)
        more = byte >= 0x80
        at += 1
    if packed:
        return at, _pack_whole(out, to, number)
    if number >> np.uint64(63):
        out[to] = 45
        to += 1
        number = ~number + np.uint64(1)
    return at, _write_digits(out, to, number, _count_digits(number))


@numba.njit(cache=True)
def _write_item(raw: Any, at: int, end: int, text: int, score_at: int, out: Any, to: int) -> Any:
    """An item as JSON; the positions after its id and after the text, -1 if it is odd."""
    to = _copy(out, to, _ITEM)
    at, to = (
        _write_text(raw, at, end, False, out, to) if text else _write_number(raw, at, end, False, out, to)
    )
    if at < 0:
        return -1, to
    bits = (
        np.uint32(raw[score_at])
        | np.uint32(raw[score_at + 1]) << np.uint32(8)
        | np.uint32(raw[score_at + 2]) << np.uint32(16)
        | np.uint32(raw[score_at + 3]) << np.uint32(24)
    )
    to = _write_score(out, _copy(out, to, _SCORE), bits)
    if to < 0:
        return -1, to
    out[to] = 125
    return at, to + 1


@numba.njit(cache=True)
def _pack_item(raw: Any, at: int, end: int, text: int, score_at: int, out: Any, to: int) -> Any:
    """An item as MessagePack; the positions after its id and after the text, -1 if it is odd."""
    to = _copy(out, to, _PACKED_ITEM)
    at, to = _write_text(raw, at, end, True, out, to) if text else _write_number(raw, at, end, True, out, to)
    if at < 0:
        return -1, to
    to = _copy(out, to, _PACKED_SCORE)
    for i in range(4):
        out[to + i] = raw[score_at + 3 - i]
    return at, to + 4


@numba.njit(cache=True)
def _write_items(
    raw: Any, at: int, ids_end: int, scores_end: int, wanted: int, packed: bool, out: Any, to: int  # noqa: FBT001 - compiled
) -> int:  # fmt: skip
    """``wanted`` items of the lists at a position; the end of the text, -1 if they are odd, too few or too long."""
    at, text = _ids_start(raw, at, ids_end)
    score_at = _scores_start(raw, ids_end, scores_end, wanted)
    if at < 0 or score_at < 0:
        return -1
    for n in range(wanted):
        if at >= ids_end or to + _LONGEST_ITEM > len(out):
            return -1
        if packed:
            at, to = _pack_item(raw, at, ids_end, text, score_at, out, to)
        else:
            if n:
                out[to] = 44
                to += 1
            at, to = _write_item(raw, at, ids_end, text, score_at, out, to)
        if at < 0:
            return -1
        score_at += 4
    return to


@numba.njit(numba.int64(_BYTES, numba.int64, numba.int64, numba.boolean, _TEXT), cache=True)
def write_list(row: Any, ids_end: int, wanted: int, packed: bool, out: Any) -> int:  # noqa: FBT001 - compiled
    """The items of one row.

    Args:
        row: ``ValueProto`` of an Int64List or StringList, best first, and then of the FloatList beside it.
        ids_end: Where the second begins.
        wanted: Items to write, at least 1.
        packed: MessagePack rather than JSON.
        out: Takes the text.

    Returns:
        Bytes written; -1 if the row is in another form, has fewer items, or the text has no room.
    """
    return _write_items(row, 0, ids_end, len(row), wanted, packed, out, 0)


@numba.njit(cache=True)
def _copy_range(out: Any, to: int, parts: Any, ends: Any, part: int) -> int:
    """The position after one of many parts, -1 if there is no room for it."""
    start = ends[part - 1] if part else 0
    if to < 0 or to + ends[part] - start > len(out):
        return -1
    for i in range(start, ends[part]):
        out[to] = parts[i]
        to += 1
    return to


@numba.njit(_TWO(*(_BYTES, _ENDS) * 3, _ENDS, *(numba.int64,) * 2, numba.boolean, _TEXT), cache=True)
def write_rows(
    rows: Any, row_ends: Any, names: Any, name_ends: Any, frames: Any, frame_ends: Any, frame_of: Any,
    first: int, wanted: int, packed: bool, out: Any,  # noqa: FBT001 - compiled
) -> Any:  # fmt: skip
    """One row after the other, each within its frame, as far as they can be written and there is room.

    Args:
        rows: Three parts a row: its ids and scores as of :func:`write_list`, and one that is not looked at.
        row_ends: Where each part ends; int64 ``[3 * rows]``.
        names: One part a row.
        name_ends: Where they end; int64 ``[rows]``.
        frames: What stands before the name of the first row, before those of the others, and then in pairs between name
            and items and behind the items.
        frame_ends: Where they end.
        frame_of: Which pair a row has, from 0; negative: the row is not to be written. int64 ``[rows]``
        first: Row to begin with.
        wanted: Items of each row.
        packed: MessagePack rather than JSON.
        out: Takes the text.

    Returns:
        The row that was not written any more, or the number of rows; and the bytes written.
    """
    written: Any = 0
    for row in range(first, len(frame_of)):
        frame = 2 + 2 * frame_of[row]
        if frame < 2:
            return row, written
        to = _copy_range(out, written, frames, frame_ends, min(row, 1))
        to = _copy_range(out, to, names, name_ends, row)
        to = _copy_range(out, to, frames, frame_ends, frame)
        if to < 0:
            return row, written
        at = row_ends[3 * row - 1] if row else 0
        to = _write_items(rows, at, row_ends[3 * row], row_ends[3 * row + 1], wanted, packed, out, to)
        to = _copy_range(out, to, frames, frame_ends, frame + 1)
        if to < 0:
            return row, written
        written = to
    return len(frame_of), written
