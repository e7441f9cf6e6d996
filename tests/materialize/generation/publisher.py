"""A driver process that publishes and, when told to, kills itself in the middle.

Run as a program with the store's and the scheduler's address and a file for the steps. Each line on its standard
input is a run, ``{"file": "prescore.toml", "seed": 2, "kill_at": 7}``: a forked child publishes and sends itself
SIGKILL at the seventh step that it reports, or at the first one of a name. The answer on standard output is its exit
status and the steps.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import distributed
import feast
import pyiceberg.catalog.sql
from pydantic import SecretStr

from materialize.progress import NoProgress
from materialize.settings import load_settings
from tests.materialize.generation.shop_models import World

if TYPE_CHECKING:
    from materialize.settings import Settings


LOADED = (distributed, feast, pyiceberg.catalog.sql)
"""Imported once, before the forks: that is most of what a short run costs."""


class DeadlySteps(NoProgress):
    """Writes every step to a file, and dies at one of them."""

    def __init__(self, file: Path, kill_at: int | str | None) -> None:
        self._file, self._kill_at = file.open("w"), kill_at
        self._stage, self._count = "", 0

    def _step(self, name: str) -> None:
        print(name, file=self._file, flush=True)
        self._count += 1
        if self._kill_at in {self._count, name}:
            os.kill(os.getpid(), signal.SIGKILL)

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


def publish(settings: Settings, scheduler: str, seed: int, progress: DeadlySteps) -> None:
    with distributed.Client(scheduler) as client:
        World(settings).publish(client, seed, progress=progress)


def numbered(steps: list[str]) -> list[str]:
    """Steps of the flip get their number."""
    flips = iter(range(1, 10))
    return [f"{step} {next(flips)}" if step == "flip: step" else step for step in steps]


def main() -> None:
    store, scheduler, steps = sys.argv[1:]
    for line in sys.stdin:
        order = json.loads(line)
        settings = load_settings(Path(order["file"]))
        address = settings.store.model_copy(update={"url": SecretStr(store)})
        settings = settings.model_copy(update={"store": address})
        child = os.fork()
        if not child:
            publish(settings, scheduler, order["seed"], DeadlySteps(Path(steps), order["kill_at"]))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps({"status": status, "steps": Path(steps).read_text().splitlines()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
