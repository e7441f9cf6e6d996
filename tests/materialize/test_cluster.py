import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from features.errors import RetryableError, SettingsError
from materialize import cluster
from materialize.cluster import device, open_cluster
from materialize.settings import ClusterSettings


def _environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")}


def test_a_local_cluster_runs_one_thread_per_process_and_leaves_nothing() -> None:
    before = dict(os.environ)
    with open_cluster(ClusterSettings(kind="local", workers=2)) as client:
        assert dict(os.environ) == before
        pids = client.run(os.getpid)
        assert len(set(pids.values())) == 2
        assert os.getpid() not in pids.values()
        for environment in client.run(_environment).values():
            assert environment == {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        assert set(client.run(dask.config.get, "distributed.worker.memory.pause").values()) == {False}
        assert set(client.run(dask.config.get, "distributed.worker.memory.terminate").values()) == {0.95}
        assert set(client.nthreads().values()) == {1}
        assert device(client) == "cpu"

        victim = next(iter(pids.values()))
        os.kill(victim, signal.SIGINT)
        assert client.submit(sum, [1, 2]).result(timeout=10) == 3
        assert victim in client.run(os.getpid).values()
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_two_clusters_live_side_by_side() -> None:
    settings = ClusterSettings(kind="local", workers=1)
    with open_cluster(settings) as one, open_cluster(settings) as other:
        assert one.submit(sum, [1, 2]).result(timeout=10) == other.submit(sum, [1, 2]).result(timeout=10) == 3


def test_an_existing_scheduler_is_used_and_left_running() -> None:
    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, protocol="tcp"
        ) as mine,
        Client(mine) as own,
    ):
        with open_cluster(ClusterSettings(kind=mine.scheduler_address)) as client:
            assert client.submit(sum, [1, 2]).result(timeout=10) == 3
        assert own.submit(sum, [3, 4]).result(timeout=10) == 7


def test_a_scheduler_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        with (
            pytest.raises(RetryableError, match="no Dask scheduler answers"),
            open_cluster(ClusterSettings(kind=address)),
        ):
            pytest.fail("opened")


def test_a_scheduler_without_workers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with (
        LocalCluster(processes=False, n_workers=0, dashboard_address=None, protocol="tcp") as empty,
        pytest.raises(RetryableError, match="has no workers"),
        open_cluster(ClusterSettings(kind=empty.scheduler_address)),
    ):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ClusterSettings(kind="spark"), "not a kind of cluster"),
        (ClusterSettings(kind="tcp://no-port"), "not a kind of cluster"),
        (ClusterSettings(kind="local", memory_per_worker="lots"), "memory_per_worker"),
        (ClusterSettings(kind="cuda"), "dask-cuda"),
    ],
)
def test_wrong_settings_are_explained(settings: ClusterSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message), open_cluster(settings):
        pytest.fail("opened")


def test_a_console_script_opens_it_and_prints_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "program"
    script.write_text(
        textwrap.dedent(
            """
            import os
            import sys
            from materialize.cluster import open_cluster
            from materialize.settings import ClusterSettings
            def main():
                with open_cluster(ClusterSettings(kind="local", workers=1)) as client:
                    client.submit(os.system, 'echo noise; echo noise >&2').result()
                    print(client.submit(sum, [1, 2]).result())
            if __name__ == "__main__":
                sys.exit(main())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
