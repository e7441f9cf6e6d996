"""Feast's online format for Redis, one value at a time: entity keys, field names and ``ValueProto`` bytes.

The look-up service reads it and the block encoder (:mod:`materialize.publish.feast_block`) writes it, so
it is light: mmh3 and the standard library. It follows Feast's specification of the format
(``docs/specs/online_store_format.md`` of feast-dev/feast) and ``feast/infra/key_encoding_utils.py``,
entity key serialization 3. A ``ValueProto`` is a protobuf ``oneof``, so a value is one field: a tag, then
a varint, 4 or 8 little-endian bytes, or a length and that many bytes. Nothing at all is a missing value.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

import mmh3

from features.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Scalar = int | float | bool | str | bytes
Value = Scalar | list[int] | list[float] | list[bool] | list[str] | list[bytes] | None

_MASK_64 = (1 << 64) - 1


class Kind(IntEnum):
    """Field numbers of Feast's ``Value`` message, equal to those of its ``ValueType`` enumeration."""

    BYTES = 1
    STRING = 2
    INT32 = 3
    INT64 = 4
    DOUBLE = 5
    FLOAT = 6
    BOOL = 7
    UNIX_TIMESTAMP = 8
    BYTES_LIST = 11
    STRING_LIST = 12
    INT32_LIST = 13
    INT64_LIST = 14
    DOUBLE_LIST = 15
    FLOAT_LIST = 16
    BOOL_LIST = 17
    UNIX_TIMESTAMP_LIST = 18


_TEXT = {Kind.BYTES, Kind.STRING}
_FIXED = {Kind.DOUBLE: "d", Kind.FLOAT: "f"}
FIRST_LIST = Kind.BYTES_LIST
ELEMENT_OF = {kind: Kind(kind - 10) for kind in Kind if kind >= FIRST_LIST}
"""Kind of a list's elements, by the list's kind."""


def entity_key_prefix(entity: str) -> bytes:
    """What every entity key of one join key begins with; the id's type, length and bytes follow."""
    name = entity.encode()
    return struct.pack("<III", 1, Kind.STRING, len(name)) + name


def entity_key(user_id: int | str, project: str, entity: str = "user_id") -> bytes:
    """The key of a user's hash: the serialized entity key, then the project's name.

    Raises:
        StoreError: If a whole number does not fit 64 bits.
    """
    if isinstance(user_id, str):
        raw = user_id.encode()
        head = struct.pack("<II", Kind.STRING, len(raw))
    else:
        try:
            raw = struct.pack("<q", user_id)
        except struct.error as error:
            raise StoreError("an id does not fit 64 bits", got=str(user_id)) from error
        head = struct.pack("<II", Kind.INT64, 8)
    return entity_key_prefix(entity) + head + raw + project.encode()


def field_hash(view: str, feature: str) -> bytes:
    """Name of a feature's field in the hash: MurmurHash3 x86 32-bit of ``view:feature``, little-endian."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def timestamp_field(view: str) -> bytes:
    """Name of the field that holds the event timestamp of a view's row."""
    return b"_ts:" + view.encode()


def encode_timestamp(microseconds: int) -> bytes:
    """A ``google.protobuf.Timestamp`` of microseconds since 1970 in UTC, as ``_ts:view`` holds it."""
    seconds, micros = divmod(microseconds, 1_000_000)
    out = b"\x08" + _varint(seconds) if seconds else b""
    return out + b"\x10" + _varint(micros * 1000) if micros else out


def decode_timestamp(raw: bytes) -> int:
    """Microseconds since 1970 in UTC of what :func:`encode_timestamp` or Feast wrote."""
    total = position = 0
    while position < len(raw):
        tag = raw[position]
        number, position = _read_varint(raw, position + 1)
        if tag == 0x08:
            total += _signed(number) * 1_000_000
        elif tag == 0x10:
            total += number // 1000
        else:
            raise _malformed(raw)
    return total


def encode_value(value: Value, kind: Kind) -> bytes:
    """``ValueProto`` bytes of one value; empty for ``None``.

    The plain counterpart of :func:`materialize.publish.feast_block.encode_column`, for a single row.

    Raises:
        StoreError: If the value is not of the kind.
    """
    if value is None:
        return b""
    try:
        if kind not in ELEMENT_OF:
            return _tag(kind) + _payload(value, kind)  # type: ignore[arg-type]
        element = ELEMENT_OF[kind]
        elements = [_payload(v, element) for v in value]  # type: ignore[union-attr]
        if element in _TEXT:
            inner = b"".join(b"\x0a" + e for e in elements)
        else:
            packed = b"".join(elements)
            inner = b"\x0a" + _varint(len(packed)) + packed if packed else b""
        return _tag(kind) + _varint(len(inner)) + inner
    except (TypeError, AttributeError, struct.error) as error:
        raise StoreError(
            f"a value cannot be written as {kind.name}", got=f"{type(value).__name__}: {error}"
        ) from error


def decode_value(raw: bytes | None, limit: int | None = None) -> Value:
    """The value that ``ValueProto`` bytes hold; ``None`` for no bytes.

    Args:
        raw: As a field of the hash holds it; ``None``: the field is absent.
        limit: Read at most so many elements of a list.

    Returns:
        A scalar or a list; 32-bit floats come as Python floats; timestamps as seconds since 1970.

    Raises:
        StoreError: If the bytes are no value of a kind in :class:`Kind`.
    """
    if not raw:
        return None
    try:
        return _decode(raw, limit)
    except (IndexError, ValueError, struct.error) as error:
        raise _malformed(raw) from error


def _decode(raw: bytes, limit: int | None) -> Value:
    tag, position = raw[0], 1
    if tag >= 0x80:
        tag, position = _read_varint(raw, 0)
    reader = _READERS.get(tag)
    if reader is None:
        raise _malformed(raw)
    return reader(raw, position, limit)


def _read_whole_number(raw: bytes, position: int, _limit: int | None) -> int:
    number, end = _read_varint(raw, position)
    if end != len(raw):
        raise _malformed(raw)
    return _signed(number)


def _read_bool(raw: bytes, position: int, limit: int | None) -> bool:
    return _read_whole_number(raw, position, limit) != 0


def _read_double(raw: bytes, position: int, _limit: int | None) -> float:
    return float(struct.unpack("<d", raw[position:])[0])


def _read_float(raw: bytes, position: int, _limit: int | None) -> float:
    return float(struct.unpack("<f", raw[position:])[0])


def _read_bytes(raw: bytes, position: int, _limit: int | None) -> bytes:
    return raw[_payload_start(raw, position) :]


def _read_text(raw: bytes, position: int, _limit: int | None) -> str:
    return raw[_payload_start(raw, position) :].decode()


def _read_whole_numbers(raw: bytes, position: int, limit: int | None) -> list[int]:
    return _decode_varints(raw, _packed_start(raw, position), limit)


def _read_bools(raw: bytes, position: int, limit: int | None) -> list[bool]:
    return [number != 0 for number in _read_whole_numbers(raw, position, limit)]


def _read_doubles(raw: bytes, position: int, limit: int | None) -> list[float]:
    return _decode_fixed(raw, _packed_start(raw, position), limit, "d", 8)


def _read_floats(raw: bytes, position: int, limit: int | None) -> list[float]:
    return _decode_fixed(raw, _packed_start(raw, position), limit, "f", 4)


def _read_many_bytes(raw: bytes, position: int, limit: int | None) -> list[bytes]:
    return _decode_texts(raw, _payload_start(raw, position), limit)


def _read_texts(raw: bytes, position: int, limit: int | None) -> list[str]:
    return [text.decode() for text in _decode_texts(raw, _payload_start(raw, position), limit)]


def _payload_start(raw: bytes, position: int) -> int:
    """Where the bytes begin whose length stands at a position; they end with the value."""
    length = raw[position]
    position += 1
    if length >= 0x80:
        length, position = _read_varint(raw, position - 1)
    if position + length != len(raw):
        raise _malformed(raw)
    return position


def _packed_start(raw: bytes, position: int) -> int:
    """Where the packed numbers of a list begin; the end of the value if it is empty."""
    position = _payload_start(raw, position)
    if position == len(raw):
        return position
    if raw[position] != 0x0A:
        raise _malformed(raw)
    return _payload_start(raw, position + 1)


def _decode_fixed(raw: bytes, position: int, limit: int | None, letter: str, width: int) -> list[float]:
    count, rest = divmod(len(raw) - position, width)
    if rest:
        raise _malformed(raw)
    if limit is not None and limit < count:
        count = limit
    return list(struct.unpack_from(f"<{count}{letter}", raw, position))


def _decode_texts(raw: bytes, position: int, limit: int | None) -> list[bytes]:
    texts: list[bytes] = []
    end = len(raw)
    room = end if limit is None else limit
    while position < end and len(texts) < room:
        length = raw[position + 1]
        if raw[position] != 0x0A:
            raise _malformed(raw)
        position += 2
        if length >= 0x80:
            length, position = _read_varint(raw, position - 1)
        if position + length > end:
            raise _malformed(raw)
        texts.append(raw[position : position + length])
        position += length
    return texts


def _decode_varints(raw: bytes, position: int, limit: int | None) -> list[int]:
    # The hot loop of every hit with whole-number ids, hence one flat loop over the bytes.
    numbers: list[int] = []
    append = numbers.append
    room = len(raw) if limit is None else limit
    if room <= 0:
        return numbers
    number = shift = 0
    for byte in raw[position:]:
        if byte < 0x80:
            number |= byte << shift
            append(number if number < 1 << 63 else _signed(number))
            if len(numbers) == room:
                return numbers
            number = shift = 0
        else:
            number |= (byte & 0x7F) << shift
            shift += 7
    if shift:
        raise _malformed(raw)
    return numbers


def _payload(value: Scalar, kind: Kind) -> bytes:
    if kind in _TEXT:
        raw = value.encode() if kind == Kind.STRING else bytes(value)  # type: ignore[union-attr, arg-type]
        return _varint(len(raw)) + raw
    if kind in _FIXED:
        return struct.pack(f"<{_FIXED[kind]}", value)
    if not isinstance(value, int):
        raise TypeError("not a whole number")
    return _varint(value)


def _tag(kind: Kind) -> bytes:
    wire = 2 if kind in _TEXT or kind in ELEMENT_OF else {Kind.DOUBLE: 1, Kind.FLOAT: 5}.get(kind, 0)
    return _varint(kind << 3 | wire)


def _varint(number: int) -> bytes:
    number &= _MASK_64
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(raw: Sequence[int], position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _MASK_64, position
        shift += 7


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _malformed(raw: bytes) -> StoreError:
    return StoreError(
        "a stored value cannot be read",
        expected="a Feast ValueProto of a scalar or a list",
        got=f"{len(raw)} bytes beginning {raw[:8].hex()}",
        fix="check that nothing else writes to this project's keys",
    )


_READERS: dict[int, Callable[[bytes, int, int | None], Value]] = {
    kind << 3 | wire: reader
    for kind, wire, reader in (
        (Kind.BYTES, 2, _read_bytes),
        (Kind.STRING, 2, _read_text),
        (Kind.INT32, 0, _read_whole_number),
        (Kind.INT64, 0, _read_whole_number),
        (Kind.DOUBLE, 1, _read_double),
        (Kind.FLOAT, 5, _read_float),
        (Kind.BOOL, 0, _read_bool),
        (Kind.UNIX_TIMESTAMP, 0, _read_whole_number),
        (Kind.BYTES_LIST, 2, _read_many_bytes),
        (Kind.STRING_LIST, 2, _read_texts),
        (Kind.INT32_LIST, 2, _read_whole_numbers),
        (Kind.INT64_LIST, 2, _read_whole_numbers),
        (Kind.DOUBLE_LIST, 2, _read_doubles),
        (Kind.FLOAT_LIST, 2, _read_floats),
        (Kind.BOOL_LIST, 2, _read_bools),
        (Kind.UNIX_TIMESTAMP_LIST, 2, _read_whole_numbers),
    )
}
"""What reads a value, by its tag: looked up by a plain number, because hashing an enumeration's member is slow."""
