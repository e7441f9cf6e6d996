"""The process: what it imports, how fast it is ready, what it does without its store or port."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import psutil  # type: ignore[import-untyped]  # it has no stubs

from tests.serving_lookup.load import fetch
from tests.serving_lookup.published_world import MODEL, PRECOMPUTED, running_store, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import RunningService, World

HEAVY = (
    "airflow",
    "dask",
    "distributed",
    "feast",
    "pandas",
    "xgboost",
    "ibis",
    "duckdb",
    "pyiceberg",
    "sqlalchemy",
)


def test_imports_nothing_heavy() -> None:
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise AssertionError("imports " + name)
sys.meta_path.insert(0, Refuse())
import serving_lookup.server, serving_lookup.client
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_worker_is_small(service: RunningService) -> None:
    for worker in psutil.Process(service.process.pid).children():
        assert worker.memory_full_info().uss < 200 * 2**20


def test_a_port_in_use_is_a_clear_error(world: World, service: RunningService, tmp_path: Path) -> None:
    port = int(service.address.rsplit(":", 1)[1])
    program = f"""
from materialize.settings import load_settings
from serving_lookup.server import serve
serve(load_settings(store={{"url": "{world.url}"}}, lookup={{"port": {port}}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"SettingsError: port {port} of 127.0.0.1 is in use" in done.stderr


def test_no_worker_outlives_a_killed_parent(
    world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with start_service(tmp_path, world.url, free_port(), {"workers": 2}) as service:
        workers = psutil.Process(service.process.pid).children()
        assert len(workers) == 2
        service.process.kill()
        psutil.wait_procs(workers, 10)
        assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def test_store_down_at_first_then_up_then_away_then_back(
    world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Readiness tells it, answers are marked, and it recovers by itself."""
    socket = tmp_path / "store.sock"
    path = f"/v1/models/{MODEL}/users/{_text(world, 0)}/recommendations?k=3"
    with start_service(tmp_path, f"unix://{socket}", free_port(), {"deadline_ms": 500}) as service:
        assert service.get("/health/ready").status_code == 503
        problem = service.get(path)
        assert (problem.status_code, problem.json()["type"]) == (503, "urn:prescore:problem:no-generation")
        assert problem.headers["retry-after"] == "1"
        for _ in range(2):
            with running_store(unix_socket_path=socket) as server:
                world_there = type(world)(server, world.folder, world.tables, catalogues=world.catalogues)
                world_there.load_features()
                world_there.flip(world_there.build("g1", "a", 1))
                wait_until(lambda: service.get("/health/ready").status_code == 200)
                answer = service.get(path).json()
                assert (answer["source"], answer["generation"]) == ("precomputed", "g1")
                world_there.client.close()
            wait_until(lambda: service.get("/health/ready").status_code == 503)
            begun = time.monotonic()
            answer = service.get(path).json()
            assert time.monotonic() - begun < 1
            assert (answer["source"], answer["reason"]) == ("default", "store_unavailable")
            assert len(answer["items"]) == 3


def test_a_store_that_stalls_costs_the_deadline_and_no_more(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    path = f"/v1/models/{MODEL}/users/1/recommendations"
    with start_service(tmp_path, own_world.url, free_port(), {"deadline_ms": 300}) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        store = psutil.Process(own_world.server._process.pid)
        store.suspend()
        try:
            begun = time.monotonic()
            answer = service.get(path).json()
            assert time.monotonic() - begun < 1
            assert (answer["source"], answer["reason"]) == ("default", "store_unavailable")
        finally:
            store.resume()
        wait_until(lambda: service.get(path).json()["source"] == "precomputed")


def test_a_storm_for_one_missing_user_scores_once(
    world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    world.forget_on_demand_lists()
    path = f"/v1/models/{MODEL}/users/{_text(world, PRECOMPUTED + 3)}/recommendations?k=5"

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, body = await fetch(reader, writer, path)
        writer.close()
        assert status == 200, body
        return body.split(b'"age_seconds"', 1)[0]

    async def storm(port: int) -> set[bytes]:
        return set(await asyncio.gather(*(ask(port) for _ in range(1000))))

    settings = {"deadline_ms": 10_000, "write_back_seconds": 0}
    with start_service(tmp_path, world.url, free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        port = int(service.address.rsplit(":", 1)[1])
        scored = 'prescore_events_total{event="scored"}'
        answers = asyncio.run(storm(port))
        assert len(answers) == 1
        assert b'"source":"fallback"' in next(iter(answers))
        assert service.metric(scored) + service.metric('prescore_events_total{event="joined"}') == 1000
        # Without write-back a request that comes after the flight has landed scores anew; those are few.
        assert service.metric(scored) < 100


def test_a_worker_that_dies_is_replaced(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with start_service(tmp_path, own_world.url, free_port()) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        (worker,) = psutil.Process(service.process.pid).children()
        worker.kill()
        worker.wait(10)
        # Until its successor listens, connections are refused or wait in the socket that it inherits.
        wait_until(lambda: _status(service, "/health/ready") == 200, 60)
        assert psutil.Process(service.process.pid).children() != [worker]
        assert b"worker_died" in service.log.read_bytes()


def test_a_request_under_way_is_answered_before_the_end(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    path = f"/v1/models/{MODEL}/users/1/recommendations?k=2"
    with start_service(tmp_path, own_world.url, free_port(), {"deadline_ms": 1500}) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        store = psutil.Process(own_world.server._process.pid)
        store.suspend()
        try:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(service.get, path)
                wait_until(lambda: service.metric("prescore_store_waiting") >= 1)
                service.process.terminate()
                answer = asked.result(30)
        finally:
            store.resume()
        assert answer.json()["reason"] == "store_unavailable"
        assert answer.headers["connection"] == "close"
        assert service.process.wait(30) == 0


def _status(service: RunningService, path: str) -> int:
    try:
        return service.get(path).status_code
    except httpx.TransportError:
        return 0


def _text(world: World, index: int) -> str:
    return quote(str(world.tables.user_ids[index]), safe="")
