"""Kernels that turn Arrow buffers into ``ValueProto`` bytes, and those into Redis commands.

Every encoder walks the rows once and writes them end to end: ``out[starts[i]:starts[i + 1]]`` are the
bytes of row i. The caller allocates ``out`` for the longest possible encoding and cuts it after. A row
whose ``valid`` is 0 gets no bytes: a missing value. What follows the tag is described in
:mod:`materialize.publish.feast_format`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.int64]
    Flags = NDArray[np.bool_]


@njit(cache=True, nogil=True, inline="always")
def _varint_size(number: int) -> int:
    rest = uint64(number)
    size = 1
    while rest >= uint64(0x80):
        rest >>= uint64(7)
        size += 1
    return size


@njit(cache=True, nogil=True, inline="always")
def _put_varint(out: Bytes, p: int, number: int) -> int:
    rest = uint64(number)
    while rest >= uint64(0x80):
        out[p] = np.uint8(rest & uint64(0x7F) | uint64(0x80))
        rest >>= uint64(7)
        p += 1
    out[p] = np.uint8(rest)
    return p + 1


def _memcpy(_context: Any, out: Any, _p: Any, data: Any, _begin: Any, _length: Any) -> Any:
    """``out[p : p + length] = data[begin : begin + length]``.

    A loop over bytes is not vectorized, because NumPy's indices may be negative; this is C's memcpy.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out_type, _, data_type, _, _ = signature.args
        target = context.make_array(out_type)(context, builder, arguments[0])
        source = context.make_array(data_type)(context, builder, arguments[2])
        to, begin = builder.gep(target.data, [arguments[1]]), builder.gep(source.data, [arguments[3]])
        cgutils.raw_memcpy(builder, to, begin, arguments[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64, types.int64), generate


_copy_memory: Any = intrinsic(_memcpy)


@njit(cache=True, nogil=True, inline="always")
def _put_bytes(out: Bytes, p: int, data: Bytes, begin: int, end: int) -> int:
    _copy_memory(out, p, data, begin, end - begin)
    return p + end - begin


@njit(cache=True, nogil=True, inline="always")
def _put_tag(out: Bytes, p: int, tag: int) -> int:
    # Field numbers of the supported kinds end at 18, so a tag has one byte or two.
    return _put_varint(out, p, tag)


@njit(cache=True, nogil=True)
def encode_varints(values: Numbers, valid: Flags, tag: int, starts: Numbers, out: Bytes) -> None:
    """int64[n] → tag, varint."""
    p = 0
    for i in range(len(values)):
        starts[i] = p
        if valid[i]:
            p = _put_tag(out, p, tag)
            p = _put_varint(out, p, values[i])
    starts[len(values)] = p


@njit(cache=True, nogil=True)
def encode_fixed(data: Bytes, width: int, valid: Flags, tag: int, starts: Numbers, out: Bytes) -> None:
    """uint8[n * width] → tag, width bytes."""
    p = 0
    for i in range(len(valid)):
        starts[i] = p
        if valid[i]:
            p = _put_tag(out, p, tag)
            p = _put_bytes(out, p, data, i * width, (i + 1) * width)
    starts[len(valid)] = p


@njit(cache=True, nogil=True)
def encode_texts(offsets: Numbers, data: Bytes, valid: Flags, tag: int, starts: Numbers, out: Bytes) -> None:
    """Strings or bytes of an Arrow array, int64[n + 1] offsets into uint8 data → tag, length, bytes."""
    p = 0
    for i in range(len(valid)):
        starts[i] = p
        if valid[i]:
            p = _put_tag(out, p, tag)
            p = _put_varint(out, p, offsets[i + 1] - offsets[i])
            p = _put_bytes(out, p, data, offsets[i], offsets[i + 1])
    starts[len(valid)] = p


@njit(cache=True, nogil=True)
def encode_varint_lists(
    offsets: Numbers, values: Numbers, valid: Flags, tag: int, starts: Numbers, out: Bytes
) -> None:
    """Lists, int64[n + 1] offsets into int64 values → tag, length, 0x0a, length, packed varints."""
    p = 0
    for i in range(len(valid)):
        starts[i] = p
        if not valid[i]:
            continue
        packed = 0
        for j in range(offsets[i], offsets[i + 1]):
            packed += _varint_size(values[j])
        p = _put_packed_head(out, p, tag, packed)
        for j in range(offsets[i], offsets[i + 1]):
            p = _put_varint(out, p, values[j])
    starts[len(valid)] = p


@njit(cache=True, nogil=True)
def encode_fixed_lists(
    offsets: Numbers, data: Bytes, width: int, valid: Flags, tag: int, starts: Numbers, out: Bytes
) -> None:
    """Lists, int64[n + 1] offsets counted in values of ``width`` bytes → tag, length, 0x0a, length, bytes."""
    p = 0
    for i in range(len(valid)):
        starts[i] = p
        if not valid[i]:
            continue
        p = _put_packed_head(out, p, tag, (offsets[i + 1] - offsets[i]) * width)
        p = _put_bytes(out, p, data, offsets[i] * width, offsets[i + 1] * width)
    starts[len(valid)] = p


@njit(cache=True, nogil=True, inline="always")
def _put_packed_head(out: Bytes, p: int, tag: int, packed: int) -> int:
    # Protobuf leaves an empty packed field out altogether.
    p = _put_tag(out, p, tag)
    if packed == 0:
        return _put_varint(out, p, 0)
    p = _put_varint(out, p, 1 + _varint_size(packed) + packed)
    out[p] = 0x0A
    return _put_varint(out, p + 1, packed)


@njit(cache=True, nogil=True)
def encode_text_lists(
    offsets: Numbers, text_offsets: Numbers, data: Bytes, valid: Flags, tag: int, starts: Numbers, out: Bytes
) -> None:
    """Lists of texts → tag, length, then 0x0a, length, bytes of each."""
    p = 0
    for i in range(len(valid)):
        starts[i] = p
        if not valid[i]:
            continue
        inner = 0
        for j in range(offsets[i], offsets[i + 1]):
            length = text_offsets[j + 1] - text_offsets[j]
            inner += 1 + _varint_size(length) + length
        p = _put_tag(out, p, tag)
        p = _put_varint(out, p, inner)
        for j in range(offsets[i], offsets[i + 1]):
            out[p] = 0x0A
            p = _put_varint(out, p + 1, text_offsets[j + 1] - text_offsets[j])
            p = _put_bytes(out, p, data, text_offsets[j], text_offsets[j + 1])
    starts[len(valid)] = p


@njit(cache=True, nogil=True)
def encode_timestamps(microseconds: Numbers, starts: Numbers, out: Bytes) -> None:
    """int64[n] microseconds since 1970 → ``google.protobuf.Timestamp``: seconds, nanoseconds."""
    p = 0
    for i in range(len(microseconds)):
        starts[i] = p
        seconds = microseconds[i] // 1_000_000
        nanos = (microseconds[i] - seconds * 1_000_000) * 1000
        if seconds != 0:
            out[p] = 0x08
            p = _put_varint(out, p + 1, seconds)
        if nanos != 0:
            out[p] = 0x10
            p = _put_varint(out, p + 1, nanos)
    starts[len(microseconds)] = p


@njit(cache=True, nogil=True)
def entity_part(offsets: Numbers, data: Bytes, kind: int, starts: Numbers, out: Bytes) -> None:
    """Ids as bytes → the part of an entity key that names them: uint32 kind, uint32 length, bytes."""
    p = 0
    for i in range(len(offsets) - 1):
        starts[i] = p
        length = offsets[i + 1] - offsets[i]
        for shift in range(4):
            out[p + shift] = np.uint8(kind >> (8 * shift) & 0xFF)
            out[p + 4 + shift] = np.uint8(length >> (8 * shift) & 0xFF)
        p = _put_bytes(out, p + 8, data, offsets[i], offsets[i + 1])
    starts[len(offsets) - 1] = p


@njit(cache=True, nogil=True, inline="always")
def _digits(number: int) -> int:
    size = 1
    while number >= 10:
        number //= 10
        size += 1
    return size


@njit(cache=True, nogil=True)
def add_bulk_sizes(starts: Numbers, fixed: int, sizes: Numbers) -> None:
    """Add to int64[n] sizes what :func:`put_bulks` will write: ``fixed`` bytes, digits, CRLF, bytes, CRLF."""
    for i in range(len(sizes)):
        length = starts[i + 1] - starts[i]
        sizes[i] += fixed + _digits(length) + length + 4


@njit(cache=True, nogil=True)
def put_bulks(prefix: Bytes, starts: Numbers, data: Bytes, cursors: Numbers, out: Bytes) -> None:
    """Write, at each row's cursor, ``prefix`` and then the row's bytes as the rest of a RESP bulk string.

    ``prefix`` ends in ``$``; the cursors move on.
    """
    for i in range(len(cursors)):
        p = _put_bytes(out, cursors[i], prefix, 0, len(prefix))
        length = starts[i + 1] - starts[i]
        digits = _digits(length)
        rest = length
        for d in range(digits):
            out[p + digits - 1 - d] = np.uint8(48 + rest % 10)
            rest //= 10
        p += digits
        out[p] = 13
        out[p + 1] = 10
        p = _put_bytes(out, p + 2, data, starts[i], starts[i + 1])
        out[p] = 13
        out[p + 1] = 10
        cursors[i] = p + 2


@njit(cache=True, nogil=True)
def put_constant(constant: Bytes, cursors: Numbers, out: Bytes) -> None:
    """Write the same bytes at each row's cursor; the cursors move on."""
    for i in range(len(cursors)):
        cursors[i] = _put_bytes(out, cursors[i], constant, 0, len(constant))


@njit(cache=True, nogil=True)
def put_rows(starts: Numbers, data: Bytes, cursors: Numbers, out: Bytes) -> None:
    """Write each row's bytes at its cursor; the cursors move on."""
    for i in range(len(cursors)):
        cursors[i] = _put_bytes(out, cursors[i], data, starts[i], starts[i + 1])


@njit(cache=True, nogil=True)
def take_rows(starts: Numbers, data: Bytes, rows: Numbers, cursors: Numbers, out: Bytes) -> None:
    """Write the bytes of ``rows[i]`` at cursor i."""
    for i in range(len(rows)):
        _put_bytes(out, cursors[i], data, starts[rows[i]], starts[rows[i] + 1])


@njit(cache=True, nogil=True)
def hash_slots(starts: Numbers, data: Bytes, table: NDArray[np.int32], slots: NDArray[np.int32]) -> None:
    """Cluster slot of each key: CRC16 (XMODEM) mod 16384 of the key, or of its first non-empty ``{…}``."""
    for i in range(len(slots)):
        begin, end = starts[i], starts[i + 1]
        for j in range(begin, end):
            if data[j] == 0x7B:
                for m in range(j + 1, end):
                    if data[m] == 0x7D:
                        if m > j + 1:
                            begin, end = j + 1, m
                        break
                break
        crc = 0
        for j in range(begin, end):
            crc = (crc << 8) & 0xFFFF ^ table[(crc >> 8) ^ data[j]]
        slots[i] = crc & 0x3FFF
