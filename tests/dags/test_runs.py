"""The DAGs run to success on a tiny shop: Airflow, the commands, Valkey, Dask, Feast, all real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CUTOFF = "20240701T000000Z"
AS_TYPED = {"cutoff": "2024-07-01T00:00:00Z"}
INTERVAL = "2024-07-01T05:00:00Z"
"""A logical date in the day after the data interval that ends at the cut-off."""


@pytest.mark.slow
@pytest.mark.timeout(600)  # two Numba compilations on a machine that may be busy
def test_features_to_model_to_generation(drive: Callable[..., Any], shop: Path) -> None:
    report, log = drive(
        ["prescore_features", {}, INTERVAL],
        ["prescore_train", AS_TYPED, "2024-07-01T06:00:00Z"],
        ["prescore_train", AS_TYPED, "2024-07-01T07:00:00Z"],
        ["prescore_materialize", AS_TYPED, "2024-07-01T08:00:00Z"],
        ["prescore_materialize", AS_TYPED | {"model_id": "none", "full": True}, "2024-07-01T09:00:00Z"],
        PRESCORE_SETTINGS=str(shop),
    )
    features, trained, kept, scored, failed = report["runs"]
    assert [run["state"] for run in report["runs"]] == ["success"] * 4 + ["failed"], log[-8000:]
    assert {task["id"] for task in features["tasks"].values()} == {CUTOFF}, "the end of the data interval"

    model = trained["tasks"]["train"]["id"]
    assert kept["tasks"]["train"]["id"] == model
    assert log.count("train --promote --cutoff") == 1, "a young model is kept without training"
    generation = scored["tasks"]["score"]["id"]
    assert failed["tasks"]["score"] == {"state": "failed", "id": None}
    commands = [
        line.partition(" score ")[2] for line in log.splitlines() if "Running: " in line and " score " in line
    ]
    assert [command.startswith("--full ") for command in commands] == [False, True]
    assert report["events"] == [
        {"asset": "prescore_features", "cutoff": CUTOFF},
        {"asset": "prescore_model", "cutoff": CUTOFF, "trained": CUTOFF, "model_id": model},
        {"asset": "prescore_model", "cutoff": CUTOFF, "trained": CUTOFF, "model_id": model},
        {"asset": "prescore_generation", "cutoff": CUTOFF, "model_id": model, "generation": generation},
    ]

    command: list[str | Path] = [Path(sys.executable).with_name("prescore"), "--settings", shop]
    shown = subprocess.run(
        [*command, "generations", "show", "live", "--output", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    live = json.loads(shown.stdout)
    assert (live["generation"], live["model_id"], live["state"]) == (generation, model, "live")
