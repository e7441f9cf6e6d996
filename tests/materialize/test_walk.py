"""The walk's own decision: a cluster that fails while training is replaced once, other failures are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from features.errors import RetryableError, StorageError
from materialize import walk
from materialize.progress import NoProgress
from materialize.settings import load_settings
from tests.shop import CUTOFF

if TYPE_CHECKING:
    from pathlib import Path

    from features.errors import PrescoreError


@pytest.mark.parametrize(
    ("error", "tries"), [(RetryableError("a worker was lost"), 2), (StorageError("full"), 1)]
)
def test_only_a_failed_cluster_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PrescoreError, tries: int
) -> None:
    tried = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(walk, "_train_once", fail)
    with pytest.raises(type(error)):
        walk.train(load_settings(None, home=tmp_path), CUTOFF, NoProgress())
    assert len(tried) == tries
