"""Which model a cut-off gets without training."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "dags"


@pytest.fixture(scope="module")
def train() -> ModuleType:
    """``dags/train.py``, imported as Airflow does: with the DAG folder at the end of the path."""
    sys.path.append(str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("dag_file_train", FOLDER / "train.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


EVENTS: list[dict[str, str] | None] = [
    {"cutoff": "20171127T000000Z", "model_id": "a", "trained": "20171127T000000Z"},
    {"cutoff": "20171130T000000Z", "model_id": "b", "trained": "20171130T000000Z"},
    {"cutoff": "20171202T000000Z", "model_id": "b", "trained": "20171130T000000Z"},
    None,
    {"cutoff": "20171225T000000Z", "model_id": "later", "trained": "20171225T000000Z"},
]


@pytest.mark.parametrize(
    ("cutoff", "days", "model"),
    [
        ("20171204T000000Z", 7, "b"),
        ("20171206T235959Z", 7, "b"),
        ("20171207T000000Z", 7, None),
        ("20171204T000000Z", 0, None),
        ("20171130T000000Z", 1, "b"),
        ("20171129T000000Z", 7, "a"),
        ("20171101T000000Z", 7, None),
    ],
)
def test_young_model(train: Any, cutoff: str, days: int, model: str | None) -> None:
    found = train.young_model(EVENTS, cutoff, days)
    assert (found and found["model_id"]) == model


def test_no_events(train: Any) -> None:
    assert train.young_model([], "20171204T000000Z", 7) is None
