"""What no command expects ends in its exit code and one paragraph; help comes at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from materialize.cli import main
from materialize.cli.bench import BENCHMARKS


def _run(monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["prescore"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


INTERRUPTED_QUERY = """
import os, signal, threading
import duckdb
from materialize.cli import main

def long_query():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    duckdb.sql("select count(*) from range(100_000_000_000) where random() < 0.5").fetchall()

main.app = long_query
main.main()
"""


def test_ctrl_c_in_the_midst_of_a_query_is_an_interrupt() -> None:
    # In a process of its own, for DuckDB's default connection may never answer again after it.
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_QUERY], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 130, ended.stderr
    assert "Interrupted" in ended.stderr
    assert "Unexpected" not in ended.stderr


def test_a_full_disk_is_told_and_may_be_retried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)  # a device, where every write says that the disk is full
    try:
        monkeypatch.setattr(main, "app", lambda: os.write(full, b"x"))
        assert _run(monkeypatch) == 5
    finally:
        os.close(full)
    assert "No space is left" in capsys.readouterr().err


def test_help_waits_for_no_library_that_only_stages_need() -> None:
    told = (
        "import sys, materialize.cli.main; print({'numpy', 'pyarrow', 'duckdb', 'httpx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_benchmark_is_listed() -> None:
    shown = CliRunner().invoke(main.app, ["bench", "--help"]).stdout
    assert [name for name in BENCHMARKS if f" {name} " not in shown] == []
    assert CliRunner().invoke(main.app, ["bench", "nothing"]).exit_code == 2
