"""Run Airflow on this machine for this repository's DAGs: one address, one log folder, one Ctrl-C.

The same four processes as ``airflow standalone``, on SQLite and the LocalExecutor, but reachable from
this machine only (``airflow standalone`` serves its log files on all interfaces), and ended together:
each leads a process group of its own, and none outlives this program's SIGINT or SIGTERM.
"""

# ruff: noqa: INP001 - a program, not a package

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
DEMO_SETTINGS = ROOT / ".prescore" / "demo" / "prescore.toml"
DEMO_CUTOFF = "2018-01-01T00:00:00Z"
HOST = "127.0.0.1"
COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
START_SECONDS, STOP_SECONDS = 180.0, 15.0


class StopRequestedError(Exception):
    """SIGINT or SIGTERM came."""


def airflow_environment(home: Path, port: int, settings: Path) -> dict[str, str]:
    """Environment variables of every Airflow process."""
    defaults = {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",  # each slot is a process that waits with Airflow in its memory
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__API__INSTANCE_NAME": "Prescore",
        # The demo's data ends in 2017: a schedule would ask for features of today.
        "PRESCORE_SCHEDULE": "" if settings == DEMO_SETTINGS else "@daily",
    }
    fixed = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # no login, hence loopback only
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
        "PRESCORE_SETTINGS": str(settings),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return defaults | dict(os.environ) | fixed


def require_free_port(port: int) -> None:
    """Leave with an explanation if something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            sys.exit(
                f"Port {port} on {HOST} cannot be used: {error.strerror}. Is Airflow running already? "
                f"To do: end what listens there, or choose another port: {Path(sys.executable)} {__file__} --port 8082"
            )


def healthy(port: int) -> bool:
    """Whether every component has reported itself to the database."""
    with (
        suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://{HOST}:{port}/api/v2/monitor/health", timeout=5) as reply,
    ):
        health = json.load(reply)
        return all(
            health[part]["status"] == "healthy"
            for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
        )
    return False


def start(environment: Mapping[str, str], logs: Path) -> dict[str, subprocess.Popen[bytes]]:
    """Start the components, each in a session of its own with its own log file."""
    processes = {}
    for name, arguments in COMPONENTS.items():
        with (logs / f"{name}.log").open("ab") as log:
            processes[name] = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-m", "airflow", *arguments],
                cwd=environment["AIRFLOW_HOME"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    return processes


def stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """End every group: SIGTERM, so that running tasks end their commands; SIGKILL after :data:`STOP_SECONDS`."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        for process in processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(group_lives(process) for process in processes.values()):
            time.sleep(0.1)


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the group is left."""
    process.poll()  # a group lasts until its leader is reaped
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def require_running(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Leave with the end of its log if a component has ended."""
    for name, process in processes.items():
        if process.poll() is not None:
            tail = "\n".join((logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])
            sys.exit(
                f"Airflow's {name} ended with code {process.returncode}. The end of {logs / name}.log:\n{tail}"
            )


def say_what_to_do(port: int, home: Path, settings: Path) -> None:
    """Print the address and the next step."""
    address = f"http://{HOST}:{port}"
    demo = settings == DEMO_SETTINGS
    first = (
        f"Trigger it with the cut-off {DEMO_CUTOFF}"
        if demo
        else "Trigger it (its cut-off is the end of the last whole data interval), or switch it on to run daily"
    )
    lines = [
        f"Airflow runs at {address} (no password, this machine only).",
        f"  Settings   {settings}",
        f"  First run  {address}/dags/prescore_features",
        f"             {first};",
        "             prescore_train and prescore_materialize follow by themselves.",
        f"  Undo       {address}/dags/prescore_rollback asks a person, then puts the earlier generation back.",
        f"  Logs       {home / 'logs'}",
        "  Ctrl-C ends it.",
    ]
    if not settings.is_file():
        lines.insert(
            2,
            "             This file does not exist yet: "
            + ("run 'make demo' first." if demo else "make it."),
        )
    print("\n".join(lines), flush=True)  # noqa: T201 - what this program is for


def main() -> None:
    """Run until a component ends or SIGINT or SIGTERM comes."""
    parser = argparse.ArgumentParser(description="Run Airflow on this machine for Prescore's DAGs.")
    parser.add_argument("--port", type=int, default=8081, help="port of the UI and the API (default: 8081)")
    parser.add_argument(
        "--home", type=Path, default=ROOT / ".airflow", help="folder of its database and logs"
    )
    options = parser.parse_args()
    settings = Path(os.environ.get("PRESCORE_SETTINGS") or DEMO_SETTINGS).absolute()
    home, port = options.home.absolute(), options.port
    require_free_port(port)
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # airflow.cfg holds generated keys
    environment = airflow_environment(home, port, settings)

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        raise StopRequestedError

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        print("Starting Airflow: about half a minute.", flush=True)  # noqa: T201
        migrated = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=environment,
            capture_output=True,
            check=False,
        )
        if migrated.returncode:
            sys.exit(
                "Airflow's database cannot be made:\n" + migrated.stderr.decode(errors="replace")[-2000:]
            )
        processes |= start(environment, logs)
        end = time.monotonic() + START_SECONDS
        while not healthy(port):
            require_running(processes, logs)
            if time.monotonic() > end:
                sys.exit(f"Airflow is not healthy after {START_SECONDS:.0f} seconds; see {logs}.")
            time.sleep(0.5)
        say_what_to_do(port, home, settings)
        while True:
            require_running(processes, logs)
            time.sleep(1)
    except StopRequestedError:
        print("\nEnding Airflow.", flush=True)  # noqa: T201
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        stop(processes)


if __name__ == "__main__":
    main()
