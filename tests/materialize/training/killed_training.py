"""A training that is killed in the midst of boosting: run as a program with the folder of the tables."""

import os
import signal
import sys
from pathlib import Path

from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings, load_settings
from materialize.training import checkpoint
from materialize.training.train import train_model
from tests.materialize.training.small_tables import CUTOFF


def main() -> None:
    checkpoint.EVERY_SECONDS = 0
    save = checkpoint.Checkpoint.save

    def save_and_die(self: checkpoint.Checkpoint, unfinished: checkpoint.Unfinished) -> None:
        save(self, unfinished)
        if self.path.name.endswith("-final"):  # the first boosting is done, the second has begun
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.Checkpoint.save = save_and_die  # type: ignore[method-assign]
    with open_cluster(ClusterSettings(kind="local", workers=2)) as client:
        train_model(load_settings(Path(sys.argv[1]) / "prescore.toml"), CUTOFF, client)


if __name__ == "__main__":
    main()
