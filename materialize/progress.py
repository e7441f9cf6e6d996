"""How a stage reports what it does: to a person's progress bars, to a log, or to nobody."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress(Protocol):
    """Receives the stages of a run, one at a time; called from the thread that runs them."""

    def start(self, stage: str, total: int | None = None) -> None:
        """A stage begins; ``total`` steps are expected, ``None`` if nobody knows."""

    def advance(self, n: int = 1) -> None:
        """``n`` steps of the current stage are done."""

    def note(self, text: str) -> None:
        """What the last step of the current stage has measured, in a few words."""

    def finish(self, stage: str, rows: int, seconds: float) -> None:
        """A stage has ended; it produced ``rows`` rows in ``seconds`` of wall time."""


class NoProgress:
    """Reports to nobody."""

    def start(self, stage: str, total: int | None = None) -> None:
        """Nothing to do."""

    def advance(self, n: int = 1) -> None:
        """Nothing to do."""

    def note(self, text: str) -> None:
        """Nothing to do."""

    def finish(self, stage: str, rows: int, seconds: float) -> None:
        """Nothing to do."""


class Stage:
    """A running stage: count its rows, report its steps."""

    def __init__(self, progress: Progress) -> None:
        self.rows = 0
        self._progress = progress

    def advance(self, steps: int = 1, *, rows: int = 0) -> None:
        """``steps`` more steps are done and produced ``rows`` more rows."""
        self.rows += rows
        self._progress.advance(steps)

    def note(self, text: str) -> None:
        """What the last step has measured, in a few words."""
        self._progress.note(text)


@contextmanager
def stage(progress: Progress, name: str, total: int | None = None) -> Iterator[Stage]:
    """Report a ``with`` block as a stage; one that raises is not reported as finished."""
    started = time.monotonic()
    progress.start(name, total)
    running = Stage(progress)
    yield running
    progress.finish(name, running.rows, time.monotonic() - started)
