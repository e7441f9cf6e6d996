"""Values of training rows in a file instead of in memory: float32, row after row, written once and read in parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from features.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BATCH_BYTES = 64 << 20
"""What is read at once."""


@dataclass(frozen=True)
class StoredValues:
    """Consecutive rows of a file; slicing reads nothing.

    Attributes:
        path: The file, which must be seen under this name by every worker.
        start, stop: The first row, and the one after the last.
        width: Columns.
    """

    path: Path
    start: int
    stop: int
    width: int

    @classmethod
    def write(cls, path: Path, width: int, parts: Iterable[NDArray[np.float32]]) -> StoredValues:
        """Write float32[n, width] parts one after the other, each as it comes.

        Raises:
            StorageError: If the disk is full.
        """
        rows = 0
        try:
            with path.open("wb") as file:
                for part in parts:
                    part.tofile(file)
                    rows += len(part)
        except OSError as error:
            raise StorageError(
                "the training rows could not be written",
                got=str(error),
                fix=f"free disk space at {path.parent}, or lower [training] max_rows",
            ) from error
        return cls(path, 0, rows, width)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> StoredValues:
        """Rows of a slice without a step."""
        start, stop, _ = part.indices(len(self))
        return replace(self, start=self.start + start, stop=self.start + max(start, stop))

    def read(self) -> NDArray[np.float32]:
        """All of them: float32[n, width]."""
        offset, count = self.start * self.width * 4, len(self) * self.width
        return np.fromfile(self.path, np.float32, count, offset=offset).reshape(len(self), self.width)

    def batches(self) -> Iterator[slice]:
        """Slices of what may be read at once."""
        step = max(1, BATCH_BYTES // (4 * self.width))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def where(self, keep: NDArray[np.bool_]) -> StoredValues:
        """The rows for which ``keep`` is true, copied to another file beside this one."""
        path = self.path.with_name(f"{self.path.name}-{uuid4().hex}")
        return self.write(path, self.width, (self[part].read()[keep[part]] for part in self.batches()))
