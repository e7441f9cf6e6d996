"""Progress bars on stderr, and the table of what each stage did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from materialize.cli import interrupt
from materialize.cli.context import stderr

if TYPE_CHECKING:
    from rich.progress import TaskID


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        stage: Its name.
        rows: Rows, pairs or rounds it produced.
        seconds: Wall time.
    """

    stage: str
    rows: int
    seconds: float

    def row(self) -> dict[str, object]:
        """A row of the table of stages."""
        rate = f"{self.rows / self.seconds:,.0f}/s" if self.rows and self.seconds > 0.05 else None
        return {
            "stage": self.stage,
            "rows": self.rows or None,
            "seconds": round(self.seconds, 1),
            "rate": rate,
        }


class RichProgress:
    """One bar per stage; on a terminal they move, elsewhere a line is written when a stage ends."""

    def __init__(self) -> None:
        self.stages: list[StageResult] = []
        self._console = stderr()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._open: list[TaskID] = []  # stages may nest: the innermost advances
        self._note = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int | None = None) -> None:
        """A stage begins; ``total`` steps are expected, None if nobody knows."""
        interrupt.check()
        self._open.append(self._bars.add_task(stage, total=total, note=""))
        self._note = ""

    def advance(self, n: int = 1) -> None:
        """``n`` steps of the current stage are done."""
        interrupt.check()
        self._bars.advance(self._open[-1], n)

    def note(self, text: str) -> None:
        """What the last step has measured: beside the bar, and in the line of a stage that ends with it."""
        self._note = text
        self._bars.update(self._open[-1], note=text)

    def finish(self, stage: str, rows: int, seconds: float) -> None:
        """A stage has ended."""
        self._bars.remove_task(self._open.pop())
        result = StageResult(stage, rows, seconds)
        self.stages.append(result)
        cells = result.row()
        count = f"{rows:>12,}" if rows else " " * 12
        said = "  ".join(str(text) for text in (cells["rate"], self._note) if text)
        self._console.print(f"[green]✓[/green] {stage:<44} {count} {seconds:>8.1f} s  {said}")
        self._note = ""
