"""Run one ``prescore`` command as a task: its own process group, its log in the task's log, ids in XCom.

A task never computes anything itself. Dask starts its workers by re-running the current program, and
inside a task that program is Airflow's supervisor, which fails; a command of its own also leaves no
memory behind and can be repeated by hand, word for word, from the task's log.

The exit code says what Airflow should do:

====  ===============================  =====================
code  meaning                          task
====  ===============================  =====================
0     done                             success
2     the caller's mistake             failed, no retry
3     the gates rejected a generation  failed, no retry
else  conflict, store down, killed     retried
====  ===============================  =====================
"""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import Asset, BaseOperator, Param, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

    from airflow.sdk import Context

FEATURES = Asset("prescore_features", extra={"means": "features as of a cut-off"})
MODEL = Asset("prescore_model", extra={"means": "the model to score a cut-off with"})
GENERATION = Asset("prescore_generation", extra={"means": "a generation that is live"})

CUTOFF = Param(
    None,
    type=["null", "string"],
    format="date-time",
    title="Cut-off",
    description="Features are computed from events before this instant. Empty: the end of the run's data interval, "
    "or the cut-off of the asset that started the run.",
)

RETRIES = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=30),
    "execution_timeout": timedelta(hours=6),
}
"""Default arguments of every DAG: what can pass by itself is waited for, nothing hangs for ever."""

PERMANENT = {2: "the caller's mistake", 3: "the gates rejected the generation"}
GRACE_SECONDS = 3.0
"""Airflow sends SIGKILL five seconds after SIGTERM; the whole group must be gone by then."""

POLL_SECONDS = 0.2


def prescore_program() -> str:
    """The ``prescore`` of this Python environment, or else the one on the PATH.

    Raises:
        AirflowFailException: If there is none.
    """
    beside = Path(sys.executable).with_name("prescore")
    found = str(beside) if beside.is_file() else shutil.which("prescore")
    if found is None:
        raise AirflowFailException(
            "There is no 'prescore' command. Install prescore[materialize] beside Airflow, or put it on the PATH."
        )
    return found


def settings_file() -> Path:
    """The settings file that the Airflow Variable ``prescore_settings`` or else ``PRESCORE_SETTINGS`` names.

    Raises:
        AirflowFailException: If neither is set, or it is not the absolute path of a file.
    """
    named = Variable.get("prescore_settings", default=None) or os.environ.get("PRESCORE_SETTINGS", "")
    if not named:
        raise AirflowFailException(
            "No settings file. Set the Airflow Variable 'prescore_settings', or PRESCORE_SETTINGS in the workers' "
            "environment, to the absolute path of a prescore.toml."
        )
    path = Path(named)
    if not path.is_absolute():
        raise AirflowFailException(f"The settings file must be an absolute path, not {named!r}.")
    if not path.is_file():
        raise AirflowFailException(
            f"This worker cannot read the settings file {named!r}: no such file. 'prescore init' makes one "
            "(or 'make demo', for the demo's)."
        )
    return path


class CommandProcess:
    """A command in a session of its own, so that one signal reaches all that it started."""

    def __init__(self, argv: Sequence[str], cwd: Path) -> None:
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process ended, closed in run()
        environment = {
            name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW_")
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            argv,
            cwd=cwd,
            env=environment,  # Airflow's connection strings and keys are none of the command's business
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._stderr = cast("IO[bytes]", self._process.stderr)

    def run(self, write_line: Callable[[str], object]) -> tuple[int, str]:
        """Pass stderr on line by line until the process ends.

        Returns:
            The exit code (negative: ended by that signal) and all of stdout.
        """
        try:
            for line in self._stderr_lines():
                write_line(line)
            code = self._process.wait()
            self._stdout.seek(0)
            return code, self._stdout.read().decode("utf-8", errors="replace")
        finally:
            self.terminate()
            self._stderr.close()
            self._stdout.close()

    def _stderr_lines(self) -> Iterator[str]:
        # Until the process ends, not until the pipe does: a server that the command started and that
        # outlives it may hold the other end.
        pending = b""
        while True:
            ended = self._process.poll() is not None  # asked first: what it wrote last is in the pipe by then
            readable, _, _ = select.select([self._stderr], [], [], 0.0 if ended else POLL_SECONDS)
            chunk = os.read(self._stderr.fileno(), 65536) if readable else b""
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")
            if (ended and not chunk) or (readable and not chunk):
                break
        if pending:
            yield pending.decode("utf-8", errors="replace")

    def terminate(self) -> None:
        """End the whole group: SIGTERM, and SIGKILL for what is left after :data:`GRACE_SECONDS`."""
        end = time.monotonic() + GRACE_SECONDS
        self._signal(signal.SIGTERM)
        while time.monotonic() < end and self._signal(0):
            self._process.poll()  # a group lasts until its leader is reaped
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> bool:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


class PrescoreOperator(BaseOperator):
    """One ``prescore`` command.

    Args:
        arguments: The command and its options, without ``--settings`` and ``--output``; templated.
        result: Key of the command's JSON answer that goes to XCom: an id, never data.
    """

    template_fields = ("arguments",)
    ui_color = "#dcebf7"

    def __init__(self, *, arguments: Sequence[str], result: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self.result = result
        self._running: CommandProcess | None = None

    def execute(self, context: Context) -> str:
        """Run the command and return the id that goes to XCom."""
        return self.finish(context, self.run_prescore(self.arguments))

    def finish(self, context: Context, answer: Mapping[str, Any], **inputs: str) -> str:
        """Note the inputs and the answer's ids on the outlets' events, where the next DAG finds them."""
        ids = inputs | {key: str(answer[key]) for key in ("model_id", "generation") if answer.get(key)}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {**ids}
        return str(answer[self.result])

    def run_prescore(self, arguments: Sequence[str]) -> Mapping[str, Any]:
        """Run ``prescore`` and return its JSON answer.

        Raises:
            AirflowFailException: If trying again cannot help.
            AirflowException: If it may.
        """
        settings = settings_file()
        arguments = [argument for argument in arguments if argument]  # a template may render to nothing
        argv = [prescore_program(), "--settings", str(settings), *arguments, "--output", "json"]
        self.log.info("Running: %s", shlex.join(argv))
        self._running = CommandProcess(argv, settings.parent)
        code, stdout = self._running.run(self.log.info)
        self._running = None
        if code:
            meaning = PERMANENT.get(code, f"ended by signal {-code}" if code < 0 else f"exit code {code}")
            error = AirflowFailException if code in PERMANENT else AirflowException
            raise error(
                f"'prescore {shlex.join(arguments)}' failed: {meaning}; its last lines above say why."
            )
        try:
            answer = json.loads(stdout)
        except ValueError as problem:
            raise AirflowException(
                f"Expected one JSON document on stdout, got {stdout[:200]!r}."
            ) from problem
        if not isinstance(answer, dict):
            raise AirflowException(f"Expected a JSON object on stdout, got {stdout[:200]!r}.")
        return answer

    def on_kill(self) -> None:
        """End the command when Airflow ends the task."""
        if self._running is not None:
            self._running.terminate()


class CutoffOperator(PrescoreOperator):
    """One ``prescore`` command at the run's cut-off, with the run's model if it has one."""

    def execute(self, context: Context) -> str:
        """Run the command and return the id that goes to XCom."""
        inputs = inputs_of(context)
        model = ["--model", inputs["model_id"]] if inputs.get("model_id") else []
        answer = self.run_prescore([*self.arguments, "--cutoff", inputs["cutoff"], *model])
        return self.finish(context, answer, **inputs)


def inputs_of(context: Context) -> dict[str, str]:
    """The ``cutoff`` of a run, and the ``model_id`` where it has one: never "now", so that a retry means the same.

    The trigger form's values come first, then the asset event with the latest cut-off of those that
    started the run, then the end of the data interval.

    Raises:
        AirflowFailException: If the run has none of the three.
    """
    inputs: dict[str, str] = {}
    events = [event.extra for events in context["triggering_asset_events"].values() for event in events]
    events = [extra for extra in events if extra.get("cutoff")]  # one that was made in the UI may say nothing
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if events:
        latest = max(events, key=lambda extra: str(extra["cutoff"]))
        inputs = {key: str(latest[key]) for key in ("cutoff", "model_id") if latest.get(key)}
    elif start is not None and end is not None and start < end:  # an empty interval is an instant: "now"
        inputs["cutoff"] = end.isoformat()
    inputs |= {key: value for key in ("cutoff", "model_id") if (value := context["params"].get(key))}
    if "cutoff" not in inputs:
        raise AirflowFailException(
            "The run has no data interval and no asset event: give a cut-off in the trigger form."
        )
    return inputs | {"cutoff": cutoff_name(inputs["cutoff"])}


def cutoff_name(text: str) -> str:
    """The name of an instant, ``20171204T000000Z``, from ISO 8601; names sort by time, and UTC is the default zone.

    Raises:
        AirflowFailException: If the text is no instant.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise AirflowFailException(
            f"The cut-off must be ISO 8601, such as 2017-12-04T00:00:00Z, not {text!r}."
        ) from error
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return instant.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
