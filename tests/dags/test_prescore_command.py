"""Commands as tasks: streams, exit codes, signals, and where a run's cut-off comes from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.prescore_command import (
    CommandProcess,
    PrescoreOperator,
    cutoff_name,
    inputs_of,
    prescore_program,
    settings_file,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def python(code: str, folder: Path) -> CommandProcess:
    return CommandProcess([sys.executable, "-c", code], folder)


def alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return False
    return fields[0] != "Z"


def test_stdout_is_returned_and_stderr_is_streamed_as_it_comes(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    code = (
        "import sys, time, os; print('one', file=sys.stderr, flush=True); time.sleep(.5);"
        "sys.stderr.buffer.write(b'tw\\xff\\nrest'); print('{}', os.getcwd())"
    )
    result = python(code, tmp_path).run(lambda line: seen.append((time.monotonic(), line)))
    assert result == (0, f"{{}} {tmp_path}\n")
    assert [line for _, line in seen] == ["one", "tw\ufffd", "rest"]
    assert seen[1][0] - seen[0][0] > 0.3


def test_large_output_on_both_streams_does_not_block(tmp_path: Path) -> None:
    code = "import sys; [print('x' * 1000, file=s) for _ in range(3000) for s in (sys.stdout, sys.stderr)]"
    lines: list[str] = []
    status, stdout = python(code, tmp_path).run(lines.append)
    assert (status, len(stdout), len(lines)) == (0, 3000 * 1001, 3000)


def test_airflows_secrets_stay_with_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "secret")
    monkeypatch.setenv("_AIRFLOW__KEY", "secret")
    monkeypatch.setenv("PRESCORE_STORE__URL", "unix:///store")
    code = "import os; print([k for k in os.environ if 'AIRFLOW_' in k], os.environ['PRESCORE_STORE__URL'])"
    assert python(code, tmp_path).run(print) == (0, "[] unix:///store\n")


def test_a_server_that_outlives_the_command_does_not_hold_the_task(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    )
    started = time.monotonic()
    status, stdout = python(code, tmp_path).run(print)
    assert status == 0
    assert time.monotonic() - started < 10
    assert alive(int(stdout)), "a session of its own is not ours to end"
    os.kill(int(stdout), signal.SIGKILL)


@pytest.mark.parametrize("stubborn", [False, True])
def test_terminate_ends_the_whole_group(tmp_path: Path, stubborn: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
    code = (
        f"{ignore}import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', '{ignore}import time; time.sleep(60)']);"
        "time.sleep(.5); print(p.pid, file=sys.stderr, flush=True); time.sleep(60)"
    )
    process = python(code, tmp_path)
    lines: list[str] = []
    ended: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: ended.append(process.run(lines.append)))
    thread.start()
    while not lines:
        time.sleep(0.02)
    process.terminate()
    thread.join(20)
    assert ended[0][0] == (-signal.SIGKILL if stubborn else -signal.SIGTERM)
    deadline = time.monotonic() + 5
    while alive(int(lines[0])) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(lines[0]))


def test_an_exception_in_the_task_ends_the_command(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise TimeoutError(line)

    pid = tmp_path / "pid"
    code = (
        f"import os, sys, time; open({str(pid)!r}, 'w').write(str(os.getpid()));"
        "print('x', file=sys.stderr, flush=True); time.sleep(60)"
    )
    with pytest.raises(TimeoutError):
        python(code, tmp_path).run(fail)
    assert not alive(int(pid.read_text()))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty settings file that the Airflow Variable names."""
    file = tmp_path / "prescore.toml"
    file.write_text("")
    monkeypatch.setenv("AIRFLOW_VAR_PRESCORE_SETTINGS", str(file))
    return file


def operator(*arguments: str) -> PrescoreOperator:
    return PrescoreOperator(task_id="command", arguments=arguments, result="generation")


def test_a_callers_mistake_fails_without_retry_and_says_why_in_the_log(
    settings: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings.write_text("[scoring]\nkk = 3\n")
    with pytest.raises(AirflowFailException, match="the caller's mistake"):
        operator("generations", "list").run_prescore(["generations", "list", ""])
    captured = capfd.readouterr()
    assert "unknown key 'scoring.kk'" in captured.out + captured.err


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (1, AirflowException, "exit code 1"),
        (2, AirflowFailException, "mistake"),
        (3, AirflowFailException, "gates rejected"),
        (4, AirflowException, "exit code 4"),
        (5, AirflowException, "exit code 5"),
        (-9, AirflowException, "ended by signal 9"),
    ],
)
def test_exit_codes(
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
    says: str,
) -> None:
    end = f"exit {code}" if code > 0 else "kill -9 $$"
    shell_program(tmp_path, monkeypatch, end)
    with pytest.raises(error, match=says) as caught:
        operator().run_prescore(["status"])
    assert isinstance(caught.value, AirflowFailException) == (error is AirflowFailException)


@pytest.mark.parametrize("answer", ["", "not json", "[1]"])
def test_an_answer_that_is_no_json_object(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    shell_program(tmp_path, monkeypatch, f"echo '{answer}'")
    with pytest.raises(AirflowException, match="Expected"):
        operator().run_prescore(["status"])


def shell_program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called ``prescore`` on the PATH of a Python environment that has none."""
    program = folder / "bin" / "prescore"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_the_program_beside_python_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prescore_program() == str(Path(sys.executable).with_name("prescore"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AirflowFailException, match="no 'prescore' command"):
        prescore_program()


def test_settings_must_be_an_absolute_path_of_a_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_file() == settings
    monkeypatch.setenv("AIRFLOW_VAR_PRESCORE_SETTINGS", "prescore.toml")
    with pytest.raises(AirflowFailException, match="absolute path"):
        settings_file()
    for wrong in (settings.parent / "none.toml", settings.parent):
        monkeypatch.setenv("AIRFLOW_VAR_PRESCORE_SETTINGS", str(wrong))
        with pytest.raises(AirflowFailException, match="no such file"):
            settings_file()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2017-12-04T00:00:00Z", "20171204T000000Z"),
        ("2017-12-04T01:30:00+01:00", "20171204T003000Z"),
        ("2017-12-04", "20171204T000000Z"),
        ("20171204T000000Z", "20171204T000000Z"),
        ("2017-12-04T00:00:00.999+00:00", "20171204T000000Z"),
    ],
)
def test_cutoff_names(text: str, name: str) -> None:
    assert cutoff_name(text) == name


def test_a_cutoff_that_is_no_instant() -> None:
    with pytest.raises(AirflowFailException, match="ISO 8601"):
        cutoff_name("yesterday")


def context(
    *, events: Sequence[dict[str, str]] = (), interval: tuple[int, int] | None = None, **params: str | None
) -> Any:
    found: dict[str, Any] = {
        "triggering_asset_events": {"asset": [SimpleNamespace(extra=extra) for extra in events]},
        "params": {"cutoff": None, **params},
    }
    if interval:
        found["data_interval_start"], found["data_interval_end"] = (
            datetime(2017, 12, day, tzinfo=UTC) for day in interval
        )
    return found


def test_a_runs_inputs() -> None:
    assert inputs_of(context(interval=(3, 4))) == {"cutoff": "20171204T000000Z"}
    assert inputs_of(context(interval=(3, 4), cutoff="2017-01-02T00:00:00Z")) == {
        "cutoff": "20170102T000000Z"
    }
    events = [
        {"cutoff": "20171203T000000Z", "model_id": "old", "trained": "20171203T000000Z"},
        {"cutoff": "20171204T000000Z", "model_id": "new", "trained": "20171203T000000Z"},
    ]
    assert inputs_of(context(events=events)) == {"cutoff": "20171204T000000Z", "model_id": "new"}
    assert inputs_of(context(events=events, model_id="mine"))["model_id"] == "mine"


@pytest.mark.parametrize("interval", [None, (4, 4)])
@pytest.mark.parametrize("events", [[], [{}], [{"note": "made by hand"}]])
def test_a_run_is_never_about_now(interval: tuple[int, int] | None, events: list[dict[str, str]]) -> None:
    with pytest.raises(AirflowFailException, match="give a cut-off"):
        inputs_of(context(events=events, interval=interval))


def test_the_command_can_be_found_by_name() -> None:
    done = subprocess.run([prescore_program(), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("features", "train", "score", "generations"))
