"""Rows that would not fit go into a file, said with a reason; the model is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from materialize.training import read_rows
from materialize.training.read_rows import choose_place
from materialize.training.train import train_model
from materialize.training_settings import TrainingSettings
from tests.materialize.training.small_tables import CUTOFF, grocery, write_tables

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from materialize.model_bundle import ModelBundle


def test_a_matrix_of_more_than_half_of_the_workers_memory_goes_to_disk(client: Client) -> None:
    settings = TrainingSettings()
    small, large = (choose_place(settings, client, rows, 50) for rows in (3_000_000, 30_000_000))
    assert (small.value, large.value) == ("memory", "disk")
    assert small.reason == "3,000,000 rows of 50 features are 0.56 GiB per worker, and may be 0.70 GiB"
    forced = settings.model_copy(update={"external_memory": True})
    assert choose_place(forced, client, 10, 2).value == "disk"


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_training_from_files_gives_the_same_bundle(
    client: Client, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_rows, "ROWS_AT_ONCE", 500)
    settings = write_tables(tmp_path, grocery(), "external_memory = true\n")
    found = train_model(settings, CUTOFF, client)
    assert (found.id, found.model_bytes) == (bundle.id, bundle.model_bytes)
    (place,) = [choice for choice in found.metrics["choices"] if choice["name"] == "matrix"]
    assert place["value"] == "disk"
    assert list((settings.models_path / ".scratch").iterdir()) == []
