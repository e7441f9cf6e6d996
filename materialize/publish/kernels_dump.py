"""Kernels that lay out whole hashes as the server's own dump format has them: listpacks between a head and a checksum.

An entry of a listpack is ``head, bytes, length of both`` (https://github.com/antirez/listpack/blob/master/listpack.md);
lengths up to :data:`LONGEST` have a head of one byte or two, and so has what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from materialize.publish.kernels_feast import _put_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.int64]

LONGEST = 4095
"""Bytes of an entry that the heads here can say."""

HEAD, TAIL = 12, 11
"""Bytes before the first entry: type, length (1 + 4), size of the listpack (4), number of entries (2); and after the
last one: end of the listpack (1), version (2), checksum (8)."""

_HASH_LISTPACK = 16
_VERSION = 10
"""Of the dump format, the first with listpacks: Redis 7.0. All later servers, Valkey among them, read it."""


@njit(cache=True, nogil=True, inline="always")
def _head_size(length: int) -> int:
    return 1 if length <= 63 else 2


@njit(cache=True, nogil=True)
def add_entry_sizes(starts: Numbers, fixed: int, sizes: Numbers) -> None:
    """Add to int64[n] sizes what :func:`put_entries` will write: ``fixed`` bytes and an entry."""
    for i in range(len(sizes)):
        length = starts[i + 1] - starts[i]
        size = _head_size(length) + length
        sizes[i] += fixed + size + (1 if size <= 127 else 2)


@njit(cache=True, nogil=True)
def put_entries(prefix: Bytes, starts: Numbers, data: Bytes, cursors: Numbers, out: Bytes) -> None:
    """Write, at each row's cursor, ``prefix`` and then the row's bytes as an entry; the cursors move on."""
    for i in range(len(cursors)):
        p = _put_bytes(out, cursors[i], prefix, 0, len(prefix))
        length = starts[i + 1] - starts[i]
        size = _head_size(length) + length
        if length <= 63:
            out[p] = np.uint8(0x80 | length)
        else:
            out[p] = np.uint8(0xE0 | length >> 8)
            out[p + 1] = np.uint8(length & 0xFF)
        p = _put_bytes(out, p + _head_size(length), data, starts[i], starts[i + 1])
        if size <= 127:
            out[p] = np.uint8(size)
            cursors[i] = p + 1
        else:
            out[p] = np.uint8(size >> 7)
            out[p + 1] = np.uint8(size & 0x7F | 0x80)
            cursors[i] = p + 2


@njit(cache=True, nogil=True)
def seal_dumps(starts: Numbers, entries: int, table: NDArray[np.uint64], out: Bytes) -> None:
    """Write head and tail of each row, whose entries are in place.

    Args:
        starts: int64[n + 1] of the rows in ``out``.
        entries: In each row, at most 65535, which also stands for more.
        table: uint64[256] of the CRC, by byte.
        out: The rows.
    """
    for i in range(len(starts) - 1):
        begin, end = starts[i], starts[i + 1]
        size = end - begin - HEAD - TAIL + 7
        out[begin] = _HASH_LISTPACK
        out[begin + 1] = 0x80
        for b in range(4):
            out[begin + 2 + b] = np.uint8(size >> (24 - 8 * b) & 0xFF)
            out[begin + 6 + b] = np.uint8(size >> (8 * b) & 0xFF)
        out[begin + 10] = np.uint8(entries & 0xFF)
        out[begin + 11] = np.uint8(entries >> 8)
        out[end - 11] = 0xFF
        out[end - 10] = _VERSION
        out[end - 9] = 0
        crc = np.uint64(0)
        for p in range(begin, end - 8):
            crc = crc >> np.uint64(8) ^ table[(crc ^ np.uint64(out[p])) & np.uint64(0xFF)]
        for b in range(8):
            out[end - 8 + b] = np.uint8(crc >> np.uint64(8 * b) & np.uint64(0xFF))
