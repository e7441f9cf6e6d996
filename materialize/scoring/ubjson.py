"""Read UBJSON, the binary form in which XGBoost saves models.

Format: https://ubjson.org/type-reference/ with optimized containers (``$`` type, ``#`` count), big-endian.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from features.errors import UnsupportedModelError

_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}
_DEEPEST = 64
"""A model nests some ten levels; a file that goes deeper is not one."""


def decode_ubjson(raw: bytes) -> Any:
    """Decode one UBJSON value; arrays of one number type become numpy arrays (native byte order).

    Raises:
        UnsupportedModelError: If the bytes are cut off or are not UBJSON.
    """
    reader = _Reader(raw)
    try:
        return reader.value(reader.take(1), 0)
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        raise UnsupportedModelError(
            "the model is not a whole UBJSON file", got=f"{error!r} at byte {reader.position} of {len(raw)}"
        ) from error


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.position = raw, 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.raw):
            raise ValueError("cut off")
        piece = self.raw[self.position : end]
        self.position = end
        return piece

    def peek(self) -> bytes:
        return self.raw[self.position : self.position + 1]

    def integer(self) -> int:
        layout = _INTEGERS[self.take(1)]
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def text(self) -> str:
        return self.take(self.integer()).decode("utf-8")

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if marker == b"{":
            return self.mapping(depth)
        if marker == b"[":
            return self.sequence(depth)
        if marker in {b"S", b"H"}:
            return self.text()
        if marker == b"C":
            return self.take(1).decode("ascii")
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        kind = np.dtype(_NUMBERS[marker])
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def header(self) -> tuple[bytes, int]:
        """Type (empty: mixed) and count (-1: up to the end marker) of a container."""
        kind, count = b"", -1
        if self.peek() == b"$":
            self.take(1)
            kind = self.take(1)
        if self.peek() == b"#":
            self.take(1)
            count = self.integer()
        if (kind and count < 0) or count > len(self.raw):
            raise ValueError("a container without a believable count")
        return kind, count

    def sequence(self, depth: int) -> Any:
        kind, count = self.header()
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
        values: list[Any] = []
        while len(values) != count:
            marker = kind or self.take(1)
            if count < 0 and marker == b"]":
                break
            values.append(self.value(marker, depth + 1))
        return values

    def mapping(self, depth: int) -> dict[str, Any]:
        kind, count = self.header()
        values: dict[str, Any] = {}
        read = 0
        while read != count:
            if count < 0 and self.peek() == b"}":
                self.take(1)
                break
            key = self.text()
            values[key] = self.value(kind or self.take(1), depth + 1)
            read += 1
        return values
