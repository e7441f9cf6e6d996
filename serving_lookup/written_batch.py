"""Plain hits of a batch, written as one text from the bytes of their rows."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from serving_lookup.answers import JSON, UserAnswer, encode
from serving_lookup.list_kernels import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from serving_lookup.written_answers import WrittenAnswer

    IntArray = NDArray[np.int64]

_OUT: Final = np.empty(1 << 20, np.uint8)
"""Where texts are put before they become bytes; the event loop is the only user."""

_NO_ROW: Final = [None, None, None]
_PACKER: Final = msgspec.msgpack.Encoder()
_WRITER: Final = msgspec.json.Encoder()


class WrittenBatch:
    """A :class:`serving_lookup.answers.BatchAnswer` in the making: plain hits are there, the others are filled in.

    Args:
        media_type: JSON or MessagePack.
        users: As they are named in the answer, in its order.
    """

    def __init__(self, media_type: bytes, users: Sequence[object]) -> None:
        self._media_type, self._users, self._packed = media_type, users, media_type != JSON
        self._opening = b"\x81\xa5users" + _array_head(len(users)) if self._packed else b'{"users":['
        self._between, self._closing = (b"", b"") if self._packed else (b",", b"]}")
        self._texts: list[bytes] = []
        self._places: dict[int, int] = {}
        """Place among the texts by number of a user who has none yet."""

    def write(
        self, rows: Sequence[Any], k: int, age: float, of: Callable[[bytes], WrittenAnswer | None]
    ) -> list[int]:
        """Write what can be written from rows.

        Args:
            rows: One per user: item ids, scores and generation as they are stored; anything else: no row.
            k: Items to write, at least 1.
            age: Of the generation in seconds.
            of: What stands around the list of a row of this generation.

        Returns:
            Numbers of the users who are still to be answered, for :meth:`fill`.
        """
        if {*map(type, rows)} != {list}:
            rows = [row if type(row) is list else _NO_ROW for row in rows]
        frames = _Frames(self._opening, self._between, self._packed, of, k, age)
        frame_of = np.fromiter([frames[row[2]] for row in rows], np.int64, len(rows))
        try:
            parts, ends = _joined([*chain.from_iterable(rows)])
        except TypeError:  # some are not there
            parts, ends = _joined([part or b"" for row in rows for part in row])
        name_of = _PACKER.encode if self._packed else _WRITER.encode
        names = _joined([name_of(user) for user in self._users])
        around = _joined(frames.parts)
        first = 0
        while first < len(rows):
            reached, size = write_rows(parts, ends, *names, *around, frame_of, first, k, self._packed, _OUT)
            if size:
                self._texts.append(_OUT[:size].tobytes())
            if reached == first:  # not even with all the room
                self._places[first] = len(self._texts)
                self._texts.append(b"")
                reached += 1
            first = reached
        return list(self._places)

    def fill(self, number: int, answer: UserAnswer) -> None:
        """Put in the answer of a user who had none."""
        self._texts[self._places.pop(number)] = self._lead(number) + encode(answer, self._media_type)

    def document(self) -> bytes:
        """The whole text, once all users are answered."""
        return b"".join(self._texts if self._users else [self._opening]) + self._closing

    def _lead(self, number: int) -> bytes:
        return self._between if number else self._opening


class _Frames(dict[bytes | None, int]):
    """What stands around users' names and lists, for :func:`serving_lookup.list_kernels.write_rows`; which of it a row
    of a generation has, -1: none.
    """  # noqa: D205 - two things that belong together

    def __init__(
        self,
        opening: bytes,
        between: bytes,
        packed: bool,  # noqa: FBT001 - internal
        of: Callable[[bytes], WrittenAnswer | None],
        k: int,
        age: float,
    ) -> None:
        super().__init__({None: -1})
        self._of, self._k, self._age = of, k, age
        user = b"\x82\xa7user_id" if packed else b'{"user_id":'
        self._answer, self._end = (b"\xa6answer", b"") if packed else (b',"answer":', b"}")
        self.parts = [opening + user, between + user]

    def __missing__(self, generation: bytes) -> int:
        known = self._of(generation)
        number = -1
        if known is not None:
            number = len(self.parts) // 2 - 1
            before, behind = known.list.around(self._k, self._age)
            self.parts += (self._answer + before, behind + self._end)
        self[generation] = number
        return number


def _joined(parts: list[bytes]) -> tuple[bytes, IntArray]:
    """Parts as one, and where each ends."""
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts)).cumsum()


def _array_head(length: int) -> bytes:
    """MessagePack's head of an array; no batch has more than its limit of a few thousand users."""
    return _PACKER.encode([None] * length)[: -length or None]
