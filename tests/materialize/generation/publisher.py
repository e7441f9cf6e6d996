"""A driver process that publishes or erases and, when told to, meets with a fault in the middle.

Run as a program with the store's and the scheduler's address and a file for the steps. Each line on its standard
input is a run, ``{"file": "prescore.toml", "seed": 2, "at": 7, "fault": null}``: a forked child publishes and sends
itself SIGKILL at the seventh step that it reports, or at the first one of a name. With the number of another process as
``fault`` it kills that one instead; with ``"disk"`` no file can grow beyond a few bytes from there on. With ``user`` in
the place of ``seed`` it erases that user. The answer on standard output is its exit status, the steps, and the error
if it ended with one that is explained.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import feast
import pyiceberg.catalog.sql
from pydantic import SecretStr

from features.errors import PrescoreError
from materialize.generation import slot
from materialize.generation.erase import erase_user
from materialize.progress import NoProgress
from materialize.settings import load_settings
from tests.materialize.generation.shop_models import World

if TYPE_CHECKING:
    from collections.abc import Callable


LOADED = (distributed, feast, pyiceberg.catalog.sql)
"""Imported once, before the forks: that is most of what a short run costs."""

FULL = 3000
"""Bytes of a file on a full disk: a page of SQLite's log is more, and so is a manifest of Iceberg."""


class FaultySteps(NoProgress):
    """Writes every step to a file; at one of them something happens."""

    def __init__(self, file: Path, at: int | str | None, fault: Callable[[], None]) -> None:
        self._file, self._at, self._fault = file.open("w"), at, fault
        self._stage, self._count = "", 0

    def _step(self, name: str) -> None:
        print(name, file=self._file, flush=True)
        self._count += 1
        if self._at in {self._count, name}:
            self._at = None
            self._fault()

    def start(self, stage: str, total: int | None = None) -> None:
        del total
        self._stage = stage
        self._step(f"{stage}: begin")

    def advance(self, n: int = 1) -> None:
        if n:
            self._step(f"{self._stage}: step")

    def finish(self, stage: str, rows: int, seconds: float) -> None:
        del rows, seconds
        self._step(f"{stage}: end")


def fault_of(order: dict[str, Any]) -> Callable[[], None]:
    """What happens at the step."""
    fault = order.get("fault")
    if fault == "disk":
        return limit_files
    return lambda: os.kill(fault or os.getpid(), signal.SIGKILL)


def limit_files(size: int = FULL) -> None:
    """Let no file of this process grow beyond a size: writes then fail as on a full disk."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def run(order: dict[str, Any], store: str, scheduler: str, steps: Path) -> int:
    """Do what the order says; the exit status."""
    settings = load_settings(Path(order["file"]))
    address = settings.store.model_copy(update={"url": SecretStr(store)})
    settings = settings.model_copy(update={"store": address})
    progress = FaultySteps(steps, order["at"], fault_of(order))
    try:
        if "user" in order:
            erase_user(settings, order["user"], progress)
        else:
            with distributed.Client(scheduler) as client:
                World(settings).publish(client, order["seed"], progress=progress)
    except PrescoreError as error:
        limit_files(resource.RLIM_INFINITY)
        steps.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        return 3
    return 0


def numbered(steps: list[str]) -> list[str]:
    """Steps of the flip get their number."""
    flips = iter(range(1, 10))
    return [f"{step} {next(flips)}" if step == "flip: step" else step for step in steps]


def main() -> None:
    slot.LEFT_SECONDS = 0.0  # nobody reads through Feast
    store, scheduler, steps = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for line in sys.stdin:
        error = steps.with_suffix(".error")
        error.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            os._exit(run(json.loads(line), store, scheduler, steps))
        answer = {
            "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
            "steps": steps.read_text().splitlines(),
            "error": error.read_text() if error.exists() else "",
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
