"""Training on a scheduler that runs elsewhere: real processes, named by their address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings
from materialize.training.boosting import boost, cluster_shape, model_bytes
from materialize.training.checkpoint import Checkpoint
from materialize.training_settings import TrainingSettings
from tests.materialize.training.test_boosting import SCHEMA, some_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

DASK = Path(sys.executable).with_name("dask")
SECONDS = 120


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A scheduler process and two worker processes of one thread."""
    file = tmp_path / "address"
    scheduler: list[str | Path] = [DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    common: list[str | Path] = ["--nthreads", "1", "--no-dashboard", "--local-directory", tmp_path]
    processes = [
        subprocess.Popen([*scheduler, "--scheduler-file", file], stderr=subprocess.DEVNULL),
        *(
            subprocess.Popen(
                [DASK, "worker", "--scheduler-file", file, "--name", str(number), *common],
                stderr=subprocess.DEVNULL,
            )
            for number in range(2)
        ),
    ]
    try:
        yield _address(file)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(SECONDS)


def _address(file: Path) -> str:
    """What the scheduler writes once it listens."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.1)
    raise TimeoutError("the scheduler does not start")


def test_a_remote_scheduler_trains_the_same_model_also_after_a_client_was_killed(
    client: Client, address: str, tmp_path: Path
) -> None:
    settings = TrainingSettings(depth=3)
    here = boost(client, some_rows(), SCHEMA, settings, rounds=40)
    kept = tmp_path / "kept"
    with open_cluster(ClusterSettings(kind=address)) as remote:
        remote.wait_for_workers(2, timeout=SECONDS)
        assert cluster_shape(remote) == cluster_shape(client)
        script = Path(__file__).with_name("killed_boosting.py")
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        killed = subprocess.run(
            [sys.executable, script, address, kept], env=environment, check=False, timeout=SECONDS
        )
        assert killed.returncode == -signal.SIGKILL
        checkpoint = Checkpoint(kept, every_seconds=10)
        left = checkpoint.load()
        assert left is not None
        assert left.curve == here.curve[:4]
        there = boost(remote, some_rows(), SCHEMA, settings, rounds=40, checkpoint=checkpoint)
    assert model_bytes(there.booster) == model_bytes(here.booster)
    assert there.curve == here.curve
