"""The DAG folder parses fast, cleanly and without the stack that its tasks need."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

DAGS = sorted((Path(__file__).parents[2] / "dags").glob("*.py"))
LIGHT = {
    "airflow",
    "dags",
    "prescore_command",
    "__future__",
    "typing",
    "collections",
    "contextlib",
    "datetime",
}
LIGHT |= {
    "json",
    "os",
    "pathlib",
    "select",
    "shlex",
    "shutil",
    "signal",
    "subprocess",
    "sys",
    "tempfile",
    "time",
}


def test_parses_fast_and_without_errors(drive: Callable[..., Any]) -> None:
    parsed = drive()[0]["parsed"]
    assert parsed["errors"] == {}
    assert parsed["warnings"] == {}
    assert parsed["heavy"] == []
    assert parsed["seconds"] < 2
    dags = parsed["dags"]
    assert {name: sorted(dag["tasks"]) for name, dag in dags.items()} == {
        "prescore_features": ["build", "materialize"],
        "prescore_train": ["train"],
        "prescore_materialize": ["score"],
        "prescore_rollback": ["approve", "change", "live"],
        "prescore_erase_user": ["erase"],
    }
    for name, dag in dags.items():
        assert dag["catchup"] is False, name
        assert dag["max_active_runs"] == 1, name
        assert all(retries == (0 if task == "approve" else 3) for task, retries in dag["tasks"].items()), name
    assert dags["prescore_features"]["schedule"] == "CronDataIntervalTimetable"
    assert dags["prescore_features"]["outlets"] == ["prescore_features"]
    assert dags["prescore_train"]["outlets"] == ["prescore_model"]
    assert dags["prescore_materialize"]["outlets"] == ["prescore_generation"]
    assert dags["prescore_train"]["params"] == ["cutoff", "retrain_after_days"]
    assert dags["prescore_materialize"]["params"] == ["cutoff", "full", "model_id"]


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_imports_nothing_heavy(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names <= LIGHT
