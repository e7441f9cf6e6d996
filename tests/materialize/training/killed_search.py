"""A search for parameters that is killed in the midst of its fourth trial: run with the settings file and the scheduler."""

import os
import signal
import sys
from pathlib import Path

from distributed import Client

from materialize.settings import load_settings
from materialize.training import checkpoint
from materialize.training.tuning import Search
from tests.materialize.training.test_boosting import SCHEMA, some_rows


def main() -> None:
    checkpoint.EVERY_SECONDS = 0
    save = checkpoint.Checkpoint.save
    files: set[str] = set()

    def save_and_die(self: checkpoint.Checkpoint, unfinished: checkpoint.Unfinished) -> None:
        save(self, unfinished)
        files.add(self.path.name)
        if len(files) == 4 and len(unfinished.curve) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.Checkpoint.save = save_and_die  # type: ignore[method-assign]
    with Client(sys.argv[2]) as client:
        search = Search.open(load_settings(Path(sys.argv[1])), {"rows": 1})
        search.run(client, some_rows(), some_rows(seed=1), SCHEMA, lambda _: None)


if __name__ == "__main__":
    main()
