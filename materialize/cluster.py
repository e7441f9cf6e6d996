"""Opens the Dask cluster that the settings name; the only file that knows what kinds of cluster there are.

========================  ====================================================================
``[cluster] kind``        what it is
========================  ====================================================================
``local``                 worker processes on this machine, one thread each
``cuda``                  one worker process per visible GPU (needs the ``gpu`` extra)
``tcp://host:8786``       a scheduler that already runs; it is left running
``auto``                  ``cuda`` where a GPU and the ``gpu`` extra are there, else ``local``
========================  ====================================================================

Worker processes start afresh (spawn) and import the parent's main module under another name, so a
script that opens a cluster needs the usual ``if __name__ == "__main__":``; console scripts have it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager
from ctypes import CDLL, byref, c_int
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, LocalCluster, WorkerPlugin

from features.errors import RetryableError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.settings import ClusterSettings

CONNECT_SECONDS = 15
"""How long an existing scheduler may take to answer, and to have a worker."""

WORKER_ENVIRONMENT = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""One thread per worker process: parallelism is between workers, so results do not depend on the machine."""

WORKER_MEMORY: dict[str, object] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}
"""A worker that pauses at 80 % of its limit waits for ever while boosting; at 95 % it is ended, which is reported."""

_ADDRESS = re.compile(r"^(tcp|tls|ucx|ws|wss)://[^/\s]+:\d+$")


@contextmanager
def open_cluster(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster that ``settings`` name; the cluster goes when the block ends, if it was started here.

    Nothing is printed, in local workers neither, and an interrupt reaches this process alone.

    Raises:
        SettingsError: If the kind, or the memory limit, cannot be understood, or its package is missing.
        RetryableError: If the cluster does not start, or the scheduler does not answer.
    """
    kind = _resolve(settings.kind)
    with ExitStack() as stack:
        if kind not in {"local", "cuda"}:
            client = _connect(kind)
            stack.callback(client.close)
        else:
            with _uninterrupted():
                cluster = _start(kind, settings)
                stack.callback(_close, cluster)
            client = Client(cluster)
            stack.callback(client.close)
            client.register_plugin(_InBackground())
        yield client


def device(client: Client) -> Literal["cpu", "cuda"]:
    """Where the workers train: ``cuda`` if every worker sees a GPU and has an XGBoost that can use it."""
    answers = client.run(_worker_has_gpu)
    return "cuda" if answers and all(answers.values()) else "cpu"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done; threads and processes that begin in it never see it.

    Ctrl-C goes to the whole process group, but the parent alone decides what it means. Both threads and
    programs inherit the mask of who starts them.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler runs anyway
        yield
        return
    resource_tracker.ensure_running()  # which would lift the mask when the first process begins
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _close(cluster: Any) -> None:
    with _uninterrupted():
        cluster.close(timeout=10)


class _InBackground(WorkerPlugin):
    """Keeps a local worker from the terminal.

    XGBoost's collective prints its ranks whatever its verbosity; errors come back as exceptions.
    """

    def setup(self, worker: object) -> None:
        """Called in the worker's main thread."""
        del worker
        with Path(os.devnull).open("wb") as nowhere:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for descriptor in (1, 2):
                os.dup2(nowhere.fileno(), descriptor)


def _resolve(kind: str) -> str:
    if kind == "auto":
        return "cuda" if _gpu_count() and importlib.util.find_spec("dask_cuda") else "local"
    if kind in {"local", "cuda"} or _ADDRESS.match(kind):
        return kind
    raise SettingsError(
        "[cluster] kind is not a kind of cluster",
        expected="auto, local, cuda, or a scheduler's address such as tcp://scheduler:8786",
        got=kind,
    )


def _start(kind: str, settings: ClusterSettings) -> Any:
    try:
        memory = parse_bytes(settings.memory_per_worker)
    except ValueError as error:
        raise SettingsError(
            "[cluster] memory_per_worker is not an amount of memory",
            expected="a number with a unit, such as 1.5GB",
            got=settings.memory_per_worker,
        ) from error
    options: dict[str, Any] = {
        "threads_per_worker": 1,
        "memory_limit": memory,
        "dashboard_address": None,
        # Without the dashboard too, the scheduler serves HTTP, and warns where its usual port is taken.
        "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
        "silence_logs": logging.CRITICAL,
        "env": WORKER_ENVIRONMENT,
        "config": WORKER_MEMORY,
    }
    environment = dict(os.environ)
    try:
        if kind == "cuda":
            return _cuda_cluster(settings.workers, options)
        return LocalCluster(processes=True, n_workers=settings.workers or CPU_COUNT, **options)
    except (RuntimeError, OSError) as error:
        raise RetryableError(
            "the local Dask cluster did not start",
            got=f"{type(error).__name__}: {error}",
            fix="check free memory and process limits, or set [cluster] kind to a scheduler's address",
        ) from error
    finally:
        # Dask sets OMP_NUM_THREADS=1, PYTHONHASHSEED and others in this process, for its workers to inherit.
        os.environ.clear()
        os.environ.update(environment)


def _cuda_cluster(workers: int, options: dict[str, Any]) -> Any:
    if importlib.util.find_spec("dask_cuda") is None:
        raise SettingsError(
            "[cluster] kind = 'cuda' needs the package dask-cuda",
            fix="pip install 'prescore[gpu]' on a machine with an NVIDIA GPU, or set kind to 'local'",
        )
    from dask_cuda import LocalCUDACluster  # noqa: PLC0415  # only GPU machines have it

    if not _gpu_count():
        raise SettingsError(
            "[cluster] kind = 'cuda' needs a visible NVIDIA GPU", got="none", fix="set kind to 'local'"
        )
    return LocalCUDACluster(n_workers=workers or None, **options)


def _connect(address: str) -> Client:
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        raise RetryableError(
            f"no Dask scheduler answers at {address}",
            got=f"{type(error).__name__} within {CONNECT_SECONDS} s",
            fix="start it, or mend [cluster] kind",
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        client.close()
        raise RetryableError(
            f"the Dask scheduler at {address} has no workers", fix="start workers, then run the command again"
        ) from error
    return client


def _gpu_count() -> int:
    try:
        driver = CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(byref(count)):
        return 0
    return count.value


def _worker_has_gpu() -> bool:
    import xgboost  # noqa: PLC0415  # on the worker

    return bool(xgboost.build_info().get("USE_CUDA")) and _gpu_count() > 0
