"""A boosting whose client is killed: run as a program with the scheduler's address and the file of the checkpoint."""

import os
import signal
import sys
from pathlib import Path

from distributed import Client

from materialize.training.boosting import boost
from materialize.training.checkpoint import Checkpoint
from materialize.training_settings import TrainingSettings
from tests.materialize.training.test_boosting import SCHEMA, some_rows


def die(number: int, _metric: float) -> None:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    kept = Checkpoint(Path(sys.argv[2]), every_seconds=0)
    with Client(sys.argv[1]) as client:
        boost(
            client,
            some_rows(),
            SCHEMA,
            TrainingSettings(depth=3),
            rounds=100_000,  # more than anybody waits for: its workers are to be free again
            on_round=die,
            checkpoint=kept,
        )
