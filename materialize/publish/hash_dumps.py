"""Whole hashes in the format of ``DUMP`` and ``RESTORE``: little more than half of the work for the server, where there is none yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from materialize.publish import kernels_dump as kernels
from materialize.publish.feast_block import Rows
from materialize.publish.resp_commands import Form, commands, lay_out, view_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def fits_dump(columns: Mapping[str, Rows]) -> NDArray[np.bool_]:
    """Rows that :func:`restore_commands` can write: bool[n], false where a value is too long."""
    longest = np.maximum.reduce([np.diff(rows.starts) for rows in columns.values()])
    fits: NDArray[np.bool_] = longest <= kernels.LONGEST
    return fits


def restore_commands(view: str, keys: Rows, columns: Mapping[str, Rows], timestamps: Rows) -> Rows:
    """One ``RESTORE`` per row, which makes the whole hash, and is refused with BUSYKEY where there is one.

    Args:
        view: Feast feature view.
        keys: n keys, of :func:`materialize.publish.feast_block.entity_keys`.
        columns: Encoded values by feature, n rows each that :func:`fits_dump`.
        timestamps: Encoded event timestamps, n rows.
    """
    fields = view_fields(view, columns, timestamps)
    dumps = lay_out(bytes(kernels.HEAD), fields, bytes(kernels.TAIL), _ENTRIES)
    kernels.seal_dumps(dumps.starts, min(len(fields), 0xFFFF), _CRC64, dumps.data)
    return commands(b"RESTORE", [keys, b"0", dumps])


def _entry(raw: bytes) -> bytes:
    row = Rows(np.array([0, len(raw)]), np.frombuffer(raw, np.uint8))
    return lay_out(b"", [row], b"", _ENTRIES)[0]


_ENTRIES = Form(_entry, b"", kernels.add_entry_sizes, kernels.put_entries)


def _crc64_table() -> NDArray[np.uint64]:
    """CRC-64/REDIS: Jones' polynomial 0xad93d23594c935a9, reflected."""
    table = np.arange(256, dtype=np.uint64)
    one = np.uint64(1)
    for _ in range(8):
        table = np.where(table & one, table >> one ^ np.uint64(0x95AC9329AC4BC9B5), table >> one)
    return table


_CRC64 = _crc64_table()
