"""Whole Arrow columns into Feast's bytes, without a Python loop over rows.

:func:`encode_column` turns a column into the ``ValueProto`` bytes of its rows, :func:`entity_keys` turns id
columns into keys. Results are those of Feast's own encoder, including its treatment of nulls: a null, or a
NaN scalar, is an empty value; a null element of a list is NaN, "" or false.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SchemaMismatchError
from materialize.publish import kernels_feast as kernels
from materialize.publish.feast_format import ELEMENT_OF, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NULL_TIMESTAMP = np.iinfo(np.int64).min
"""What Feast stores for a missing timestamp: NumPy's NaT as a number."""

_MAX_VARINT = 10
_TEXT = (Kind.BYTES, Kind.STRING)
_WIDTH = {Kind.DOUBLE: 8, Kind.FLOAT: 4}
_ARROW: dict[Kind, pa.DataType] = {
    Kind.BYTES: pa.large_binary(),
    Kind.STRING: pa.large_string(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.FLOAT: pa.float32(),
    Kind.BOOL: pa.bool_(),
    Kind.UNIX_TIMESTAMP: pa.timestamp("s", "UTC"),
}


_KIND_OF = {
    kind.id: value
    for value, kinds in {
        Kind.BOOL: (pa.bool_(),),
        Kind.INT32: (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32()),
        Kind.INT64: (pa.uint32(), pa.int64()),
        Kind.FLOAT: (pa.float16(), pa.float32()),
        Kind.DOUBLE: (pa.float64(),),
        Kind.STRING: (pa.string(), pa.large_string()),
        Kind.BYTES: (pa.binary(), pa.large_binary()),
        Kind.UNIX_TIMESTAMP: (pa.timestamp("us"),),
    }.items()
    for kind in kinds
}


@dataclass(frozen=True)
class Rows:
    """Bytes of n rows end to end: row i is ``data[starts[i]:starts[i + 1]]``; starts int64[n + 1], data uint8."""

    starts: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.starts[row + 1]].tobytes()

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows: int64[m], ascending; without a copy where they follow one another."""
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return Rows(self.starts[rows[0] : rows[-1] + 2], self.data)
        starts, cursors = _row_starts(np.diff(self.starts)[rows])
        out = np.empty(starts[-1], np.uint8)
        kernels.take_rows(self.starts, self.data, rows, cursors, out)
        return Rows(starts, out)

    def to_binary(self) -> pa.LargeBinaryArray:
        """The rows as an Arrow column, without a copy."""
        buffers = [None, pa.py_buffer(self.starts), pa.py_buffer(self.data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)

    @classmethod
    def of_binary(cls, values: pa.Array | pa.ChunkedArray) -> Rows:
        """The bytes of an Arrow string or binary column; nulls are empty. No copy of what is contiguous."""
        array = _one_array(pc.cast(values, pa.large_binary()))
        offsets, data = _text_buffers(array)
        if array.null_count:
            # The slots of nulls may hold bytes.
            return cls.of_binary(pc.fill_null(array, b""))
        return cls(offsets, data)


def kind_of(arrow: pa.DataType) -> Kind:
    """The kind that Feast gives to an Arrow type.

    Raises:
        SchemaMismatchError: For a type that has no place in the online store.
    """
    if pa.types.is_dictionary(arrow):
        return kind_of(arrow.value_type)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow):
        element = kind_of(arrow.value_type)
        if element not in ELEMENT_OF:
            return Kind(element + 10)
    if arrow.id in _KIND_OF:
        return _KIND_OF[arrow.id]
    raise SchemaMismatchError(
        "a column cannot be written to the online store",
        expected="numbers, booleans, text, bytes, timestamps, or lists of one of them",
        got=str(arrow),
    )


def encode_column(values: pa.Array | pa.ChunkedArray, kind: Kind | None = None) -> Rows:
    """``ValueProto`` bytes of every row of a column.

    Args:
        values: n values; cast to the kind's type where they have another.
        kind: What Feast declares the feature to be; ``None``: what its Arrow type suggests.

    Raises:
        SchemaMismatchError: If the values are not of the kind and cannot be cast to it without loss.
    """
    kind = kind or kind_of(values.type)
    array = _cast(values, kind)
    if kind in ELEMENT_OF:
        return _encode_lists(array, kind)
    n = len(array)
    starts = np.empty(n + 1, np.int64)
    if kind in _TEXT:
        offsets, data = _text_buffers(array)
        out = np.empty(int(offsets[-1] - offsets[0]) + n * (1 + _MAX_VARINT), np.uint8)
        kernels.encode_texts(offsets, data, _valid(array), _tag(kind, 2), starts, out)
    elif kind in _WIDTH:
        width = _WIDTH[kind]
        valid = ~_filled(pc.is_nan(array), value=True).to_numpy(zero_copy_only=False)
        out = np.empty(n * (1 + width), np.uint8)
        kernels.encode_fixed(_numbers(array), width, valid, _tag(kind, 1 if width == 8 else 5), starts, out)
    else:
        out = np.empty(n * (1 + _MAX_VARINT), np.uint8)
        valid = np.ones(n, np.bool_) if kind == Kind.UNIX_TIMESTAMP else _valid(array)
        kernels.encode_varints(_integers(array), valid, _tag(kind, 0), starts, out)
    return Rows(starts, out[: starts[n]])


def _encode_lists(array: pa.LargeListArray, kind: Kind) -> Rows:
    element = ELEMENT_OF[kind]
    n = len(array)
    offsets = array.offsets.to_numpy()
    valid = _valid(array)
    count = int(offsets[-1] - offsets[0])
    # A slice of a list array drags the values of all its siblings along.
    items = array.values.slice(int(offsets[0]), count)
    offsets = offsets - offsets[0]
    starts = np.empty(n + 1, np.int64)
    tag = _tag(kind, 2)
    head = 3 + 2 * _MAX_VARINT
    if element in _TEXT:
        text_offsets, data = _text_buffers(_filled(items, b"" if element == Kind.BYTES else ""))
        size = int(text_offsets[-1] - text_offsets[0]) + count * (1 + _MAX_VARINT)
        out = np.empty(size + n * head, np.uint8)
        kernels.encode_text_lists(offsets, text_offsets, data, valid, tag, starts, out)
    elif element in _WIDTH:
        width = _WIDTH[element]
        out = np.empty(count * width + n * head, np.uint8)
        numbers = _numbers(_filled(items, float("nan")))
        kernels.encode_fixed_lists(offsets, numbers, width, valid, tag, starts, out)
    else:
        out = np.empty(count * _MAX_VARINT + n * head, np.uint8)
        kernels.encode_varint_lists(offsets, _integers(items, in_list=True), valid, tag, starts, out)
    return Rows(starts, out[: starts[n]])


def encode_timestamps(microseconds: NDArray[np.int64]) -> Rows:
    """``google.protobuf.Timestamp`` bytes of int64[n] microseconds since 1970 in UTC."""
    starts = np.empty(len(microseconds) + 1, np.int64)
    out = np.empty(len(microseconds) * 2 * (1 + _MAX_VARINT), np.uint8)
    kernels.encode_timestamps(np.ascontiguousarray(microseconds), starts, out)
    return Rows(starts, out[: starts[-1]])


def entity_keys(
    ids: Mapping[str, pa.Array | pa.ChunkedArray], project: str, kinds: Mapping[str, Kind] | None = None
) -> Rows:
    """Keys of n entities.

    Args:
        ids: Id column by join key; as many join keys as the entity has.
        project: Feast project.
        kinds: Declared kind by join key; without it, from the column's type.

    Raises:
        SchemaMismatchError: If an id is missing, or of a type that Feast has no key for.
    """
    names = sorted(ids)
    parts = []
    for name in names:
        kind = (kinds or {}).get(name) or _id_kind(ids[name].type)
        parts.append(_id_rows(name, ids[name], kind))
    head = struct.pack("<I", len(names))
    for name in names:
        head += struct.pack("<II", Kind.STRING, len(name.encode())) + name.encode()
    n = len(parts[0])
    sizes = np.full(n, len(head) + len(project.encode()), np.int64)
    for part in parts:
        sizes += np.diff(part.starts)
    starts, cursors = _row_starts(sizes)
    out = np.empty(starts[-1], np.uint8)
    kernels.put_constant(_bytes(head), cursors, out)
    for part in parts:
        kernels.put_rows(part.starts, part.data, cursors, out)
    kernels.put_constant(_bytes(project.encode()), cursors, out)
    return Rows(starts, out)


def _id_kind(arrow: pa.DataType) -> Kind:
    kind = kind_of(arrow)
    return Kind.INT64 if kind == Kind.INT32 else kind


def _id_rows(name: str, values: pa.Array | pa.ChunkedArray, kind: Kind) -> Rows:
    if values.null_count:
        raise SchemaMismatchError(f"{values.null_count} rows have no {name!r}", expected="an id in every row")
    array = _cast(values, kind)
    if kind in _TEXT:
        offsets, data = _text_buffers(array)
    elif kind in {Kind.INT32, Kind.INT64, Kind.UNIX_TIMESTAMP}:
        numbers = _integers(array).astype("<i4" if kind == Kind.INT32 else "<i8")
        offsets = np.arange(len(array) + 1, dtype=np.int64) * numbers.itemsize
        data = numbers.view(np.uint8)
    else:
        raise SchemaMismatchError(
            f"column {name!r} cannot be an id", expected="whole numbers or text", got=str(values.type)
        )
    starts = np.empty(len(array) + 1, np.int64)
    out = np.empty(int(offsets[-1] - offsets[0]) + 8 * len(array), np.uint8)
    kernels.entity_part(offsets, data, int(kind), starts, out)
    return Rows(starts, out)


def _row_starts(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts, starts[:-1].copy()


def _cast(values: pa.Array | pa.ChunkedArray, kind: Kind) -> pa.Array:
    """One contiguous array of the kind's Arrow type; timestamps keep their unit, whole numbers their width."""
    target = _ARROW[kind] if kind not in ELEMENT_OF else pa.large_list(_ARROW[ELEMENT_OF[kind]])
    stamps = kind in {Kind.UNIX_TIMESTAMP, Kind.UNIX_TIMESTAMP_LIST}
    if stamps and kind in ELEMENT_OF and pa.types.is_nested(values.type):
        target = pa.large_list(values.type.value_type)
    elif stamps and (pa.types.is_timestamp(values.type) or pa.types.is_integer(values.type)):
        target = values.type
    try:
        return _one_array(values if values.type == target else pc.cast(values, target))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatchError(
            "a column is not what its feature is declared to be",
            expected=kind.name,
            got=f"{values.type}: {error}",
        ) from error


def _one_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return (
            values.chunk(0)
            if values.num_chunks == 1
            else pa.concat_arrays(values.chunks or [pa.array([], values.type)])
        )
    return values


def _filled(array: pa.Array, value: object) -> pa.Array:
    return pc.fill_null(array, value) if array.null_count else array


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _text_buffers(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets int64[n + 1] and data of a large_string or large_binary array, without a copy."""
    _, offsets, data = array.buffers()
    if offsets is None:
        return np.zeros(1, np.int64), _bytes(b"")
    window = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return window, _bytes(data or b"")


def _numbers(array: pa.Array) -> NDArray[np.uint8]:
    """Little-endian bytes of a fixed-width array; those of nulls are arbitrary."""
    width = array.type.bit_width // 8
    data = _bytes(array.buffers()[1] or b"")
    return data[array.offset * width : (array.offset + len(array)) * width]


def _integers(array: pa.Array, *, in_list: bool = False) -> NDArray[np.int64]:
    """int64[n]; nulls are 0, or for timestamps NULL_TIMESTAMP, which come in seconds."""
    if not pa.types.is_timestamp(array.type):
        numbers: NDArray[np.int64] = _filled(array.cast(pa.int64()), 0).to_numpy()
        return numbers
    per_second = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[array.type.unit]
    ticks: NDArray[np.int64] = _filled(array.cast(pa.int64()), 0).to_numpy()
    seconds = ticks // per_second
    if in_list:
        # Before 1970, Feast rounds elements of a list up, and single values down.
        seconds += (ticks < 0) & (ticks % per_second != 0)
    return np.where(_valid(array), seconds, NULL_TIMESTAMP)


def _tag(kind: Kind, wire: int) -> int:
    return kind << 3 | wire


def _bytes(raw: bytes | pa.Buffer) -> NDArray[np.uint8]:
    return np.frombuffer(raw, np.uint8)
