"""A short table of names that worker processes fill together: the first to need a name gives it its number."""

from __future__ import annotations

import mmap
import multiprocessing

_BYTES = 64


class SharedNames:
    """Names of at most 64 bytes in memory shared with the processes that are forked later.

    Args:
        most: Names that have room; further ones share the last number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = multiprocessing.get_context("fork").Lock()
        self._table = mmap.mmap(-1, most * _BYTES)
        self._known: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a name, from 0; it is the same in all processes."""
        known = self._known.get(name)
        if known is None:
            with self._lock:
                names = self.names()
                known = names.index(name) if name in names else min(len(names), self._most - 1)
                if known == len(names):
                    self._table[known * _BYTES : (known + 1) * _BYTES] = name.encode().ljust(_BYTES, b"\0")
            self._known[name] = known
        return known

    def names(self) -> list[str]:
        """All names that have a number, in its order."""
        table = bytes(self._table)
        cells = [table[i * _BYTES : (i + 1) * _BYTES].rstrip(b"\0") for i in range(self._most)]
        return [cell.decode() for cell in cells if cell]
