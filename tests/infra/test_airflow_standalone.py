"""``make airflow``: healthy, on loopback only, DAGs in place, and nothing left when it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

PROGRAM = Path(__file__).parents[2] / "infra" / "airflow_standalone.py"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PRESCORE"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as reply:
        return json.load(reply)


def test_a_port_in_use_is_explained(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, PROGRAM, "--home", tmp_path, "--port", str(taken.getsockname()[1])],
            env=CLEAN,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.slow
def test_it_starts_serves_and_ends_whole(tmp_path: Path) -> None:
    port, said = free_port(), tmp_path / "said"
    with said.open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, PROGRAM, "--home", tmp_path / "home", "--port", str(port)],
            env=CLEAN | {"PRESCORE_SETTINGS": str(tmp_path / "prescore.toml")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 200
        while "Ctrl-C" not in said.read_text():
            assert program.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        assert f"http://127.0.0.1:{port}/dags/prescore_features" in said.read_text()
        assert "This file does not exist yet" in said.read_text()

        address = f"http://127.0.0.1:{port}"
        token = fetch(f"{address}/auth/token")["access_token"]
        while len(dags := fetch(f"{address}/api/v2/dags", token)["dags"]) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        paused = {dag["dag_id"] for dag in dags if dag["is_paused"]}
        assert paused == {"prescore_features"}, "nothing runs before it is switched on or triggered"
        assert fetch(f"{address}/api/v2/importErrors", token)["total_entries"] == 0

        family = psutil.Process(program.pid).children(recursive=True)
        listening = {
            c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(30)
    gone, left = psutil.wait_procs(family, timeout=5)
    assert len(gone) >= 4
    assert left == []
