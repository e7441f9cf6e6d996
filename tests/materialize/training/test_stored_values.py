"""Rows in a file give the model that they give in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from features.errors import StorageError
from materialize.training import stored_values
from materialize.training.boosting import boost, model_bytes
from materialize.training.stored_values import StoredValues
from materialize.training.training_rows import TrainingRows
from materialize.training_settings import TrainingSettings
from tests.materialize.training.test_boosting import SCHEMA, some_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client
    from numpy.typing import NDArray


def stored(rows: TrainingRows, file: Path) -> TrainingRows:
    assert isinstance(rows.values, np.ndarray)
    values = StoredValues.write(file, rows.values.shape[1], np.array_split(rows.values, 3))
    return TrainingRows(values, rows.labels, rows.weights, rows.groups)


@pytest.fixture
def small_batches(client: Client) -> Iterator[None]:
    """Each worker reads its thousand rows in seven batches."""
    usual = stored_values.BATCH_BYTES
    client.run(setattr, stored_values, "BATCH_BYTES", 16 * 150)
    yield
    client.run(setattr, stored_values, "BATCH_BYTES", usual)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("objective", ["binary:logistic", "rank:ndcg"])
def test_they_give_the_same_bytes_as_in_memory(
    client: Client, tmp_path: Path, objective: Literal["binary:logistic", "rank:ndcg"]
) -> None:
    settings = TrainingSettings(objective=objective, depth=4, early_stopping_rounds=5)
    rows, newer = some_rows(), some_rows(seed=1)
    own = boost(client, rows, SCHEMA, settings, rounds=20, validation=newer)
    files = stored(rows, tmp_path / "rows"), stored(newer, tmp_path / "newer")
    theirs = boost(client, files[0], SCHEMA, settings, rounds=20, validation=files[1])
    assert theirs.curve == own.curve
    assert model_bytes(theirs.booster) == model_bytes(own.booster)
    left = client.run(lambda dask_worker: list(Path(dask_worker.local_directory).glob("bins-*")))
    assert set(map(tuple, left.values())) == {()}


def values(rows: TrainingRows) -> NDArray[np.float32]:
    return rows.values.read() if isinstance(rows.values, StoredValues) else rows.values


def test_parts_of_them_are_parts_of_what_was_written(tmp_path: Path) -> None:
    rows = some_rows(100)
    file = stored(rows, tmp_path / "rows")
    part, keep = file.between(20, 90).between(5, 1000), rows.groups % 5 == 0
    assert np.array_equal(values(part), values(rows)[25:90], equal_nan=True)
    for chosen in (keep, ~keep):
        kept, expected = file.where(chosen), rows.where(chosen)
        assert np.array_equal(values(kept), values(expected), equal_nan=True)
        assert np.array_equal(kept.groups, expected.groups)


def test_a_full_disk_is_told() -> None:
    with pytest.raises(StorageError, match="could not be written"):
        StoredValues.write(Path("/dev/full"), 4, [np.zeros((10_000, 4), np.float32)])
