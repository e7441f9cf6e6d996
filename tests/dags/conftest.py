"""An Airflow home of its own for this folder's tests, and a tiny shop for the DAGs to work on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
DRIVER = Path(__file__).with_name("dag_driver.py")

# Airflow reads it at import, and would make a folder in the home of whoever runs the tests.
os.environ.setdefault("AIRFLOW_HOME", str(ROOT / ".airflow" / "tests"))


@pytest.fixture(scope="session")
def airflow_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of an Airflow with an empty SQLite database and this repository's DAGs."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PRESCORE"))} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    }
    made = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return environment


@pytest.fixture
def drive(airflow_environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Run ``dag_driver.py`` in a process of its own and return the JSON it wrote."""

    def run(*steps: object, **environment: str) -> Any:
        report = tmp_path / "report.json"
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(report), json.dumps(steps)],
            env=airflow_environment | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=540,
        )
        assert report.is_file(), f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return json.loads(report.read_text()), done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Settings file of a tiny shop; what the DAGs start for it is ended."""
    settings = write_shop(tmp_path_factory.mktemp("shop"))
    yield settings
    prescore = Path(sys.executable).with_name("prescore")
    subprocess.run([prescore, "--settings", settings, "stop"], check=False, capture_output=True, timeout=60)
