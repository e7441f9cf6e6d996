"""The images: installed from the lock, without root, and complete for what they run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "infra" / "images"
EXTRAS = {"lookup": [], "worker": ["materialize"], "airflow": ["materialize", "airflow"]}
ENTRYPOINT = IMAGES / "entrypoint.sh"

# Refuses to import what a lock file does not install, then runs the code after it.
ONLY = """
import importlib.abc, importlib.metadata, re, sys
def name(text): return re.sub(r"[-_.]+", "-", text).lower()
installed = {name(n) for n in sys.argv.pop(1).split(",")} | {"prescore"}
owners = importlib.metadata.packages_distributions()
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, module, path=None, target=None):
        top = module.partition(".")[0]
        if top in owners and not installed & {name(owner) for owner in owners[top]}:
            raise ModuleNotFoundError(f"the image has no {module}", name=module)
sys.meta_path.insert(0, Only())
"""


def pins(lock: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and hashes of every package in a lock file."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for block in re.split(r"\n(?=[a-zA-Z0-9])", lock.read_text()):
        pinned = re.match(r"([\w.\-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", block)
        if pinned:
            found[canonicalize_name(pinned[1])] = (pinned[2], frozenset(re.findall(r"--hash=(\S+)", block)))
    return found


def wanted(extras: list[str]) -> set[str]:
    """Packages that pyproject.toml asks for by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("image", EXTRAS)
def test_a_lock_is_a_part_of_the_whole_lock(image: str) -> None:
    whole, part = pins(ROOT / "requirements.lock"), pins(IMAGES / f"{image}.lock")
    stale = {name: pin for name, pin in part.items() if whole.get(name) != pin}
    assert stale == {}, "run: sh infra/images/lock.sh"
    assert wanted(EXTRAS[image]) <= set(part)
    assert all(hashes for _, hashes in part.values())


def test_the_lookup_image_has_no_training_stack() -> None:
    heavy = {
        "apache-airflow",
        "dask",
        "distributed",
        "duckdb",
        "feast",
        "ibis-framework",
        "pandas",
        "sqlalchemy",
    }
    assert not (heavy | {"xgboost", "xgboost-cpu"}) & set(pins(IMAGES / "lookup.lock"))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("lookup", "import serving_lookup.server, serving_lookup.app"),
        ("lookup", "from materialize.__main__ import main; main()"),
        (
            "worker",
            "import materialize.walk, materialize.generation.run, features.build, distributed.cli.dask_worker",
        ),
        ("worker", "from materialize.__main__ import main; main()"),
        (
            "airflow",
            "import materialize.walk, psycopg, airflow.sdk, airflow.providers.standard.operators.hitl",
        ),
    ],
)
def test_an_image_has_what_it_runs(image: str, code: str, tmp_path: Path) -> None:
    installed = ",".join(pins(IMAGES / f"{image}.lock"))
    arguments = ["serve" if image == "lookup" else "score", "--help"]
    done = subprocess.run(
        [sys.executable, "-c", ONLY + code, installed, *arguments],
        cwd=tmp_path,
        env={"AIRFLOW_HOME": str(tmp_path), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "main()" not in code or "Usage:" in done.stdout


@pytest.mark.parametrize("image", EXTRAS)
def test_a_dockerfile(image: str) -> None:
    text = (IMAGES / f"{image}.Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert bases == ["python:3.11-slim-bookworm"] * 2
    assert f"--require-hashes -r {image}.lock" in text
    users = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
    assert users == ["prescore"]
    after_user = text[text.index("USER prescore") :]
    assert all(word in after_user for word in ("HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE", "STOPSIGNAL"))
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def test_the_images_are_built_alike() -> None:
    stages = [
        (IMAGES / f"{image}.Dockerfile")
        .read_text()
        .split("AS build\n")[1]
        .split("\nFROM")[0]
        .replace(image, "IMAGE")
        for image in ("worker", "airflow")
    ]
    lookup = (IMAGES / "lookup.Dockerfile").read_text().split("AS build\n")[1].split("\nFROM")[0]
    stages.append(lookup.replace("lookup.lock", "IMAGE.lock"))
    assert len(set(stages)) == 1


def test_the_build_backend_is_found_in_the_lock() -> None:
    done = subprocess.run(
        ["sed", "-n", r"/^setuptools==/,/[^\\]$/p", ROOT / "requirements.lock"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.match(r"setuptools==\S+ \\\n(\s+--hash=sha256:\w+( \\)?\n)+$", done.stdout)
    assert (IMAGES / "lookup.Dockerfile").read_text().count(r"sed -n '/^setuptools==/,/[^\\]$/p'") == 1


def enter(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": str(Path(shutil.which("sh") or "").parent)}
    return subprocess.run(
        ["sh", ENTRYPOINT, *command], env=path | environment, capture_output=True, text=True, check=False
    )


def test_the_entrypoint_reads_secrets_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "store url"
    secret.write_text("redis://user:pa$$ `word`@host/0\n")
    done = enter(
        {"PRESCORE_STORE__URL_FILE": str(secret), "PRESCORE_MODEL": "m", "OTHER_FILE": "kept"}, "env"
    )
    assert done.returncode == 0
    variables = done.stdout.splitlines()
    assert "PRESCORE_STORE__URL=redis://user:pa$$ `word`@host/0" in variables
    assert {"PRESCORE_MODEL=m", "OTHER_FILE=kept"} <= set(variables)
    assert not [line for line in variables if line.startswith("PRESCORE_STORE__URL_FILE")]


def test_the_entrypoint_names_a_file_that_is_missing(tmp_path: Path) -> None:
    done = enter({"PRESCORE_STORE__URL_FILE": str(tmp_path / "none")}, "echo", "started")
    assert done.returncode == 2
    assert "PRESCORE_STORE__URL_FILE" in done.stderr
    assert done.stdout == ""


def test_the_entrypoint_becomes_the_command() -> None:
    assert enter({}, "sh", "-c", "exit 7").returncode == 7
    assert enter({}, "echo", "two words", "$HOME").stdout == "two words $HOME\n"
