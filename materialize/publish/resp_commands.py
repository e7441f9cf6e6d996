"""Redis commands for a whole block of rows at once, laid out as RESP (the protocol's array of bulk strings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from materialize.publish import kernels_feast as kernels
from materialize.publish.feast_block import Rows
from materialize.publish.feast_format import field_hash, timestamp_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Form:
    """How one argument lies in the bytes of a row.

    Attributes:
        constant: The bytes of an argument that is the same for all rows.
        before: What stands before an argument that differs by row, where that is the same for all.
        add_sizes, put: Kernels that count and write the rest, like :func:`kernels_feast.put_bulks`.
    """

    constant: Callable[[bytes], bytes]
    before: bytes
    add_sizes: Callable[..., None]
    put: Callable[..., None]


def hset_commands(view: str, keys: Rows, columns: Mapping[str, Rows], timestamps: Rows | bytes) -> Rows:
    """One ``HSET`` per row: the features' fields and ``_ts:view``, replaced in one atomic command.

    Args:
        view: Feast feature view.
        keys: n keys, of :func:`materialize.publish.feast_block.entity_keys`.
        columns: Encoded values by feature, n rows each.
        timestamps: Encoded event timestamps, n rows or one for all.
    """
    return commands(b"HSET", [keys, *view_fields(view, columns, timestamps)])


def view_fields(view: str, columns: Mapping[str, Rows], timestamps: Rows | bytes) -> list[Rows | bytes]:
    """Names and values of a view's fields in turn, as a hash holds them."""
    fields: list[Rows | bytes] = [timestamp_field(view), timestamps]
    for feature, rows in columns.items():
        fields += [field_hash(view, feature), rows]
    return fields


def commands(name: bytes, arguments: Sequence[Rows | bytes]) -> Rows:
    """RESP of one command per row.

    Args:
        name: Of the command.
        arguments: Each differs by row (n rows) or is the same for all; at least one differs.
    """
    return lay_out(b"*%d\r\n" % (1 + len(arguments)) + bulk(name), arguments, b"", _BULKS)


def lay_out(head: bytes, arguments: Sequence[Rows | bytes], tail: bytes, form: Form) -> Rows:
    """Bytes of n rows, each ``head``, arguments, ``tail``.

    Args:
        head: The same for all.
        arguments: Each differs by row (n rows) or is the same for all; at least one differs.
        tail: The same for all.
        form: Of the arguments.
    """
    constant = head
    pieces: list[tuple[NDArray[np.uint8], Rows]] = []
    for argument in arguments:
        if isinstance(argument, Rows):
            pieces.append((np.frombuffer(constant + form.before, np.uint8), argument))
            constant = b""
        else:
            constant += form.constant(argument)
    constant += tail
    sizes = np.full(len(pieces[0][1]), len(constant), np.int64)
    for prefix, rows in pieces:
        form.add_sizes(rows.starts, len(prefix), sizes)
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    cursors = starts[:-1].copy()
    out = np.empty(starts[-1], np.uint8)
    for prefix, rows in pieces:
        form.put(prefix, rows.starts, rows.data, cursors, out)
    kernels.put_constant(np.frombuffer(constant, np.uint8), cursors, out)
    return Rows(starts, out)


def bulk(raw: bytes) -> bytes:
    """A RESP bulk string."""
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


_BULKS = Form(bulk, b"$", kernels.add_bulk_sizes, kernels.put_bulks)


def hash_slots(keys: Rows) -> NDArray[np.int32]:
    """Redis Cluster slot of each key: int32[n] in 0 … 16383."""
    slots = np.empty(len(keys), np.int32)
    kernels.hash_slots(keys.starts, keys.data, _CRC16, slots)
    return slots


def _crc16_table() -> NDArray[np.int32]:
    """CRC-16/XMODEM, polynomial 0x1021, as the Redis Cluster specification has it."""
    table = np.arange(256, dtype=np.int32) << 8
    for _ in range(8):
        table = np.where(table & 0x8000, (table << 1) ^ 0x1021, table << 1) & 0xFFFF
    return table.astype(np.int32)


_CRC16 = _crc16_table()
