"""Artifacts come back as they were written, or not at all."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from features.errors import SchemaMismatchError, StorageError
from features.schema import ITEM, USER, FeatureColumn, FeatureSchema
from materialize.publish.lookup_artifact import LookupArtifact, write_lookup_artifact
from materialize.scoring import BoundCatalogue, PairScorer

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = 20
SCHEMA = FeatureSchema(
    (FeatureColumn("age", USER), FeatureColumn("kind", ITEM, ("é", 'q"'))),
    user_id_type="string",
    item_id_type="string",
)


@pytest.fixture(scope="module")
def catalogue() -> BoundCatalogue:
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.random(200), rng.integers(0, 2, 200)])
    data = xgb.DMatrix(
        inputs, rng.random(200), feature_names=SCHEMA.names, feature_types=["q", "c"], enable_categorical=True
    )
    booster = xgb.train({"max_depth": 3}, data, 3)
    items = pa.table({"item_id": [f"i{n}" for n in range(ITEMS)], "kind": ["é", 'q"'] * (ITEMS // 2)})
    return PairScorer.from_xgboost(booster, SCHEMA).bind(items)


def tables() -> dict[str, Any]:
    ids = [f"i{n}" for n in range(ITEMS)]
    return {
        "items": pa.table({"item_id": ids, "title": [None, *ids[1:]]}),
        "default": pa.table({"item_id": ids[:5], "score": [5, 4, 3, 2, 1]}),
    }


def write(folder: Path, catalogue: BoundCatalogue, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "generation": "g1",
        "model": "m",
        "model_id": "id",
        "feature_cutoff": "2026-01-01T00:00:00+00:00",
        "k": 7,
        "schema": SCHEMA,
        "exclude_seen": True,
        "catalogue": catalogue,
        **tables(),
    }
    return write_lookup_artifact(folder, **{**arguments, **changes})


def test_comes_back_as_it_was_written(tmp_path: Path, catalogue: BoundCatalogue) -> None:
    folder = write(tmp_path / "deep" / "lookup", catalogue)
    loaded = LookupArtifact.load(folder)
    assert (loaded.generation, loaded.model, loaded.model_id, loaded.k) == ("g1", "m", "id", 7)
    assert loaded.schema == SCHEMA
    assert loaded.exclude_seen
    assert loaded.items["item_id"].to_pylist() == tables()["items"]["item_id"].to_pylist()
    assert loaded.titles["i1"] == "i1"
    assert "i0" not in loaded.titles
    assert loaded.default.schema.field("score").type == pa.float32()
    ours, theirs = loaded.catalogue.top_k_one({"age": 0.3}, 5), catalogue.top_k_one({"age": 0.3}, 5)
    assert ours.scores.tobytes() == theirs.scores.tobytes()
    assert [path.name for path in folder.parent.iterdir()] == ["lookup"]


def test_replaces_what_is_there_and_what_is_mapped_stays_readable(
    tmp_path: Path, catalogue: BoundCatalogue
) -> None:
    folder = write(tmp_path / "lookup", catalogue)
    old = LookupArtifact.load(folder)
    write(folder, catalogue, generation="g2")
    assert LookupArtifact.load(folder).generation == "g2"
    assert old.items["title"].to_pylist()[1] == "i1"
    assert [path.name for path in tmp_path.iterdir()] == ["lookup"]


def test_every_damaged_file_is_found(tmp_path: Path, catalogue: BoundCatalogue) -> None:
    folder = write(tmp_path / "lookup", catalogue)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) >= 4
    for path in files:
        good = path.read_bytes()
        for bad in (good[:-1], bytes([good[0] ^ 1]) + good[1:], None):
            if bad is None:
                path.unlink()
            else:
                path.write_bytes(bad)
            with pytest.raises(StorageError):
                LookupArtifact.load(folder)
        path.write_bytes(good)
    LookupArtifact.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"files": {}},
        {"files": {"../outside": {"bytes": 0, "sha256": ""}}},
        {"unknown": 1},
        {"k": "many"},
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    tmp_path: Path, catalogue: BoundCatalogue, change: dict[str, object]
) -> None:
    folder = write(tmp_path / "lookup", catalogue)
    manifest = json.loads((folder / "artifact.json").read_text())
    (folder / "artifact.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(StorageError):
        LookupArtifact.load(folder)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="share the warehouse"):
        LookupArtifact.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("items", pa.table({"item_id": ["i1"]})),
        ("items", pa.table({"item_id": ["i1", "i1"], "title": ["a", "b"]})),
        ("default", pa.table({"item_id": ["i1", None], "score": [1, 2]})),
        ("default", pa.table({"item_id": ["i1"]})),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tmp_path: Path, catalogue: BoundCatalogue, table: str, value: pa.Table
) -> None:
    with pytest.raises(SchemaMismatchError):
        write(tmp_path / "lookup", catalogue, **{table: value})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_artifact(
    tmp_path: Path, catalogue: BoundCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "lookup", catalogue)
    calls = itertools.count()

    def full(*_: object) -> None:
        next(calls)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write(folder, catalogue, generation="g2")
    monkeypatch.undo()
    assert next(calls) == 1
    assert LookupArtifact.load(folder).generation == "g1"
    assert [path.name for path in tmp_path.iterdir()] == ["lookup"]
