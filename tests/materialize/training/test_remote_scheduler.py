"""Training on a scheduler that runs elsewhere: real processes, named by their address."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings, TrainingSettings
from materialize.training.boosting import boost, cluster_shape, model_bytes
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


def test_a_remote_scheduler_trains_the_same_model(client: Client, address: str) -> None:
    settings = TrainingSettings(depth=3)
    here = boost(client, some_rows(), SCHEMA, settings, rounds=5)
    with open_cluster(ClusterSettings(kind=address)) as remote:
        remote.wait_for_workers(2, timeout=SECONDS)
        assert cluster_shape(remote) == cluster_shape(client)
        there = boost(remote, some_rows(), SCHEMA, settings, rounds=5)
    assert model_bytes(there.booster) == model_bytes(here.booster)
    assert there.curve == here.curve
