"""Snapshots and signed items come back from their files as they were, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from features.errors import StorageError
from materialize.scoring.checked_file import write_checked
from materialize.scoring.delta import DeltaScorer, run_full
from materialize.scoring.signatures import SignedItems
from materialize.scoring.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def run(world: Callable[..., Any]) -> tuple[Any, Any, SignedItems, Snapshot]:
    case = world(6)
    catalogue = case.bind()
    signed = SignedItems.of(catalogue)
    return case, catalogue, signed, run_full(catalogue, signed, case.users, 5, 70, **case.inputs)


@pytest.mark.parametrize("users", [0, 1, 40])
@pytest.mark.parametrize("large", [False, True])
def test_what_is_read_is_what_was_written(run: Any, tmp_path: Path, users: int, large: bool) -> None:
    _, _, _, snapshot = run
    index = snapshot.item_index[:users] + (70_000 * (snapshot.item_index[:users] >= 0) if large else 0)
    part = Snapshot(
        "x", snapshot.user_ids.slice(0, users), snapshot.digests[:users], snapshot.signatures[:users], index.astype(np.int32),
        snapshot.scores[:users], snapshot.counts[:users], snapshot.complete[:users], 5,
    )  # fmt: skip
    part.save(tmp_path / "folder" / "block.arrow", "g/0")
    again = Snapshot.load(tmp_path / "folder" / "block.arrow", "g/0")
    assert (again.items, again.k, len(again)) == ("x", 5, users)
    assert again.user_ids.equals(part.user_ids)
    for name in ("signatures", "item_index", "scores", "counts", "complete"):
        ours, theirs = getattr(again, name), getattr(part, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["block.arrow"]


def test_a_delta_run_reads_them(run: Any, tmp_path: Path) -> None:
    case, catalogue, signed, snapshot = run
    signed.save(tmp_path / "items.arrow")
    snapshot.save(tmp_path / "block.arrow", "a block")
    items, users = SignedItems.load(tmp_path / "items.arrow"), case.users.slice(3)
    assert items.digest == signed.digest
    read = Snapshot.load(tmp_path / "block.arrow", "a block")
    done = DeltaScorer.of(catalogue, items).run(read, users, 5, 70, **{**case.inputs, "latent": None})
    assert len(done.plan.unchanged) == 37
    assert done.gone.to_pylist() == case.users["user_id"].slice(0, 3).to_pylist()


def test_a_file_that_is_damaged_or_anothers_is_refused(run: Any, tmp_path: Path) -> None:
    _, _, signed, snapshot = run
    file = tmp_path / "block.arrow"
    snapshot.save(file, "generation 1, block 3 of 8")
    with pytest.raises(StorageError, match="another's") as caught:
        Snapshot.load(file, "generation 1, block 4 of 8")
    assert "block 3 of 8" in str(caught.value)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:7], whole[:-1], whole + b"x", b"PAR1" + whole]
    for at in rng.integers(0, len(whole), 20):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(StorageError, match="cannot be used"):
            Snapshot.load(file, "generation 1, block 3 of 8")
    signed.save(file)
    with pytest.raises(StorageError, match="signed items 1"):
        Snapshot.load(file, "generation 1, block 3 of 8")
    write_checked(file, "snapshot 0", pa.table({"user_id": [1]}), {})
    with pytest.raises(StorageError, match="snapshot 0"):
        Snapshot.load(file, "generation 1, block 3 of 8")
    with pytest.raises(StorageError, match="cannot be used"):
        SignedItems.load(tmp_path / "none.arrow")


def test_a_file_that_cannot_be_written_leaves_the_old_one(run: Any, tmp_path: Path) -> None:
    _, _, signed, snapshot = run
    (tmp_path / "plain").write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="cannot be written"):
        signed.save(tmp_path / "plain" / "items.arrow")
    (tmp_path / "block.arrow").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        snapshot.save(tmp_path / "block.arrow", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.arrow", "plain"]
