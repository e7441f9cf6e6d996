"""Writes a stored list as the answer around it, JSON or MessagePack, from the bytes of its row.

What is written reads back as what :func:`serving_lookup.answers.encode` gives.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from serving_lookup.answers import MESSAGE_PACK, encode
from serving_lookup.list_kernels import write_list

if TYPE_CHECKING:
    from serving_lookup.answers import Answer

_DOUBLE: Final = struct.Struct(">d").pack
_OUT: Final = np.empty(1 << 20, np.uint8)
"""Where the text is put before it becomes bytes; the event loop is the only user."""


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

    def around(self, k: int, age: float) -> tuple[bytes, bytes]:
        """What stands before and behind the items of a document.

        Args:
            k: How many they are.
            age: Seconds, at least 0.
        """
        if not self.packed:
            return self._before, b"%b%.3f%b" % (self._between, age, self._after)
        count = bytes((0x90 | k,)) if k < 16 else b"\xdc" + k.to_bytes(2, "big")
        return self._before + count, self._between + _DOUBLE(age) + self._after

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
        size = write_list(ids + scores, len(ids), k, self.packed, _OUT)
        if size < 0:
            return None
        before, behind = self.around(k, age)
        return before + _OUT[:size].tobytes() + behind
