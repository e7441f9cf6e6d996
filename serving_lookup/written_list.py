"""Writes a stored list as JSON or MessagePack from the bytes of its row, without making objects of it: compiled.

What is written reads back as what :func:`serving_lookup.answers.encode` gives. In JSON a score is its exact decimal
expansion, cut after 18 significant digits, which every reader takes back to the very same number (a double needs 17).
MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numba
import numpy as np

from materialize.publish.feast_format import Kind
from serving_lookup.answers import MESSAGE_PACK, encode

if TYPE_CHECKING:
    from serving_lookup.answers import Answer

_INT64_LIST: Final = Kind.INT64_LIST << 3 | 2
_STRING_LIST: Final = Kind.STRING_LIST << 3 | 2
_FLOAT_LIST_LOW: Final = Kind.FLOAT_LIST << 3 & 0x7F | 0x82
_FLOAT_LIST_HIGH: Final = 1
_ITEM: Final = np.frombuffer(b'{"item_id":', np.uint8)
_SCORE: Final = np.frombuffer(b',"score":', np.uint8)
_PACKED_ITEM: Final = np.frombuffer(b"\x82\xa7item_id", np.uint8)
_PACKED_SCORE: Final = np.frombuffer(b"\xa5score\xcb", np.uint8)
_LONGEST_ITEM: Final = len(_ITEM) + len(_SCORE) + 20 + 45 + 2
"""Bytes that an item with a whole-number id can take; of a text id, all but the text."""

_DOUBLE: Final = struct.Struct(">d").pack
_DIGITS: Final = 18
_ROOM: Final = 1 << 20
_BYTES: Final = numba.types.Bytes(numba.uint8, 1, "C")
_OUT: Final = np.empty(_ROOM, np.uint8)
"""Where the text is put before it becomes bytes; the event loop is the only user."""


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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
def _pack_score(out: Any, at: int, bits: Any) -> int:
    """A float32, given by its bits, as the eight bytes of a double; -1 for what is no normal number."""
    exponent = np.uint64(bits >> np.uint32(23) & np.uint32(0xFF))
    mantissa = np.uint64(bits & np.uint32(0x7FFFFF))
    if exponent == np.uint64(255) or (exponent == np.uint64(0) and mantissa != np.uint64(0)):
        return -1
    double = np.uint64(bits >> np.uint32(31)) << np.uint64(63)
    if exponent != np.uint64(0):
        double |= (exponent + np.uint64(1023 - 127)) << np.uint64(52) | mantissa << np.uint64(29)
    return _pack_bytes(out, at, double, 8)


@numba.njit(cache=True)
def _ids_start(ids: Any) -> Any:
    """Where the first id of a list is, and whether ids are texts (1) or whole numbers (0); -1 if it is no list."""
    if len(ids) < 2 or (ids[0] != _INT64_LIST and ids[0] != _STRING_LIST):
        return -1, 0
    text = 1 if ids[0] == _STRING_LIST else 0
    length, at = _varint(ids, 1)
    if length != len(ids) - at:
        return -1, text
    if not text:
        if at >= len(ids) or ids[at] != 0x0A:
            return -1, text
        length, at = _varint(ids, at + 1)
        if length != len(ids) - at:
            return -1, text
    return at, text


@numba.njit(cache=True)
def _scores_start(scores: Any, wanted: int) -> int:
    """Where the first float of a list is; -1 if it is no list of so many."""
    if len(scores) < 3 or scores[0] != _FLOAT_LIST_LOW or scores[1] != _FLOAT_LIST_HIGH:
        return -1
    length, at = _varint(scores, 2)
    if length != len(scores) - at or at >= len(scores) or scores[at] != 0x0A:
        return -1
    length, at = _varint(scores, at + 1)
    return at if length == len(scores) - at and length >= 4 * wanted else -1


@numba.njit(numba.int64(_BYTES, _BYTES, numba.int64, numba.boolean, numba.uint8[::1]), cache=True)
def _write_list(ids: Any, scores: Any, wanted: int, packed: bool, out: Any) -> Any:  # noqa: C901, FBT001, PLR0911, PLR0912, PLR0915 - one pass
    """``wanted`` items, one after the other; how many bytes, -1 if the row is in another form or has fewer."""
    at, text = _ids_start(ids)
    score_at = _scores_start(scores, wanted)
    if at < 0 or score_at < 0:
        return -1
    end: Any = 0
    for n in range(wanted):
        if at >= len(ids) or end + _LONGEST_ITEM > len(out):
            return -1
        if packed:
            end = _copy(out, end, _PACKED_ITEM)
        else:
            if n:
                out[end] = 44
                end += 1
            end = _copy(out, end, _ITEM)
        if text:
            if ids[at] != 0x0A:
                return -1
            length, at = _varint(ids, at + 1)
            if length < 0 or at + length > len(ids) or end + length + _LONGEST_ITEM > len(out):
                return -1
            if packed:
                end = _pack_length(out, end, length)
                if end < 0:
                    return -1
            else:
                out[end] = 34
                end += 1
            for i in range(at, at + length):
                byte = ids[i]
                if not packed and (byte < 32 or byte in (34, 92)):  # needs an escape
                    return -1
                out[end] = byte
                end += 1
            if not packed:
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
            if packed:
                end = _pack_whole(out, end, number)
            else:
                if number >> np.uint64(63):
                    out[end] = 45
                    end += 1
                    number = ~number + np.uint64(1)
                end = _write_whole(out, end, number)
        bits = (
            np.uint32(scores[score_at])
            | np.uint32(scores[score_at + 1]) << np.uint32(8)
            | np.uint32(scores[score_at + 2]) << np.uint32(16)
            | np.uint32(scores[score_at + 3]) << np.uint32(24)
        )
        score_at += 4
        if packed:
            end = _pack_score(out, _copy(out, end, _PACKED_SCORE), bits)
        else:
            end = _write_score(out, _copy(out, end, _SCORE), bits)
        if end < 0:
            return -1
        if not packed:
            out[end] = 125
            end += 1
    return end


class WrittenList:
    """Answers that differ only in their items and their age.

    Args:
        answer: One of them; its items and its age are left out.
        media_type: JSON or MessagePack.
    """

    def __init__(self, answer: Answer, media_type: bytes) -> None:
        self.packed = media_type == MESSAGE_PACK
        around = encode(
            msgspec.structs.replace(answer, items=[], age_seconds=0.0, exhausted=False), media_type
        )
        items, age = (
            (b"\xa5items\x90", b"\xabage_seconds\xcb") if self.packed else (b'"items":[]', b'"age_seconds":')
        )
        head, tail = around.split(items, 1)
        between, rest = tail.split(age, 1)
        self._before, self._between = head + items[:-1], b"]" * (not self.packed) + between + age
        self._after = rest[8:] if self.packed else rest.removeprefix(b"0.0")

    def write(self, ids: bytes, scores: bytes, k: int, age: float) -> bytes | None:
        """The whole document.

        Args:
            ids: ``ValueProto`` of an Int64List or StringList, best first.
            scores: ``ValueProto`` of the FloatList beside it.
            k: Items to write, at least 1.
            age: Seconds, at least 0.

        Returns:
            ``None`` if the row has fewer items or is not in the usual form; the general way can tell.
        """
        size = _write_list(ids, scores, k, self.packed, _OUT)
        if size < 0:
            return None
        items = _OUT[:size].tobytes()
        if not self.packed:
            return b"%b%b%b%.3f%b" % (self._before, items, self._between, age, self._after)
        count = bytes((0x90 | k,)) if k < 16 else b"\xdc" + k.to_bytes(2, "big")
        return b"".join((self._before, count, items, self._between, _DOUBLE(age), self._after))
