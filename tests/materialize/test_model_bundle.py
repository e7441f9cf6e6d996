import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import (
    CallerError,
    NotFoundError,
    SchemaMismatchError,
    StorageError,
    UnsupportedModelError,
)
from features.schema import ITEM, PAIR, USER, FeatureColumn, FeatureSchema
from materialize import model_bundle
from materialize.model_bundle import Lineage, ModelBundle

SCHEMA = FeatureSchema(
    (FeatureColumn("a", USER), FeatureColumn("b", ITEM, ("x", "y")), FeatureColumn("c", PAIR)),
    item_id_type="string",
)


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    rng = np.random.default_rng(0)
    values = rng.random((200, 3))
    values[:, 1] = rng.integers(0, 2, 200)
    matrix = xgboost.QuantileDMatrix(
        values,
        label=values[:, 0],
        feature_names=SCHEMA.names,
        feature_types=["q", "c", "q"],
        enable_categorical=True,
    )
    return xgboost.train({"max_depth": 2, "seed": 0}, matrix, 3)


@pytest.fixture(scope="module")
def model(booster: xgboost.Booster) -> bytes:
    return bytes(booster.save_raw("ubj"))


def lineage(day: int = 1, **known: object) -> Lineage:
    return Lineage.of_now(cutoff="20180101T000000Z", created_at=datetime(2018, 1, day, tzinfo=UTC), **known)


@pytest.fixture
def bundle(tmp_path: Path, model: bytes) -> ModelBundle:
    return ModelBundle.save(
        tmp_path / "models",
        name="recommendations",
        model=model,
        schema=SCHEMA,
        metrics={"methods": {"model": {"ndcg@10": 0.25}}},
        exclude_seen=True,
        lineage=lineage(data={"events": "abc"}, parameters={"seed": 0}),
    )


def test_what_was_saved_is_loaded(bundle: ModelBundle, booster: xgboost.Booster, model: bytes) -> None:
    again = ModelBundle.load(bundle.path)
    assert again == bundle
    assert again.path.name == again.id
    assert (again.schema, again.exclude_seen, again.metrics) == (
        SCHEMA,
        True,
        {"methods": {"model": {"ndcg@10": 0.25}}},
    )
    assert again.lineage.libraries["numpy"] == np.__version__
    assert again.model_bytes == model
    rows = np.array([[0.1, 1, np.nan], [0.9, 0, 0.5]])
    assert np.array_equal(again.booster().inplace_predict(rows), booster.inplace_predict(rows))
    assert sorted(p.name for p in bundle.path.parent.iterdir()) == [bundle.id]


def test_the_id_depends_on_contents_and_not_on_the_hour(bundle: ModelBundle, model: bytes) -> None:
    def identity(**changes: object) -> str:
        known: dict[str, object] = {
            "name": "recommendations",
            "model": model,
            "schema": SCHEMA,
            "metrics": {"methods": {}},
            "exclude_seen": True,
            "lineage": lineage(2, data={"events": "abc"}, parameters={"seed": 0}),
        }
        return ModelBundle.save(bundle.path.parent, **(known | changes)).id  # type: ignore[arg-type]

    assert identity() == bundle.id
    assert ModelBundle.load(bundle.path).lineage.created_at.day == 1, "a bundle that exists is kept"
    others = {
        identity(name="other"),
        identity(exclude_seen=False),
        identity(lineage=lineage(data={"events": "abd"}, parameters={"seed": 0})),
        identity(lineage=lineage(data={"events": "abc"}, parameters={"seed": 1})),
        identity(schema=FeatureSchema(SCHEMA.columns)),
    }
    assert len(others | {bundle.id}) == 6


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("file", ["model.ubj", "schema.json", "metrics.json"])
@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, _link, Path.unlink])
def test_a_damaged_file_is_refused_and_saving_again_mends_it(
    bundle: ModelBundle, model: bytes, file: str, damage: Callable[[Path], None]
) -> None:
    damage(bundle.path / file)
    with pytest.raises(CallerError, match=f"damaged.*{file}"):
        ModelBundle.load(bundle.path)
    mended = ModelBundle.save(
        bundle.path.parent,
        name=bundle.name,
        model=model,
        schema=SCHEMA,
        metrics=bundle.metrics,
        exclude_seen=True,
        lineage=bundle.lineage,
    )
    assert mended == ModelBundle.load(bundle.path) == bundle


@pytest.mark.parametrize("damage", [_truncate, Path.unlink, lambda path: path.write_text("{}")])
def test_a_damaged_manifest_is_refused(bundle: ModelBundle, damage: Callable[[Path], None]) -> None:
    damage(bundle.path / "manifest.json")
    with pytest.raises(CallerError, match=r"manifest\.json"):
        ModelBundle.load(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"exclude_seen": False}, "seal"),
        ({"name": "other"}, "seal"),
        ({}, "seal"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_altered_manifest_is_refused(bundle: ModelBundle, change: dict[str, object], message: str) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CallerError, match=message):
        ModelBundle.load(bundle.path)


def test_a_manifest_that_was_sealed_anew_does_not_fit_its_id(bundle: ModelBundle) -> None:
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_text()) | {"exclude_seen": False}
    del document["seal"]
    seal = hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps(document | {"seal": seal}, indent=1))
    with pytest.raises(CallerError, match="from the contents"):
        ModelBundle.load(bundle.path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["model.ubj", "schema.json", "metrics.json", "manifest.json"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7) | st.none(),
)
def test_no_damage_goes_unnoticed(bundle: ModelBundle, file: str, place: float, bit: int | None) -> None:
    """A flipped bit, or (no bit) a file cut at some place."""
    path = bundle.path / file
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if bit is None:
        del damaged[int(place * len(whole)) :]
    else:
        damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(CallerError, match=re.escape(str(bundle.path))):
            ModelBundle.load(bundle.path)
    finally:
        path.write_bytes(whole)


def test_an_oversized_file_is_refused_before_it_is_read(bundle: ModelBundle) -> None:
    with (bundle.path / "metrics.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CallerError, match="at most"):
        ModelBundle.load(bundle.path)


def test_what_is_not_of_a_bundle_is_refused(
    bundle: ModelBundle, model: bytes, booster: xgboost.Booster
) -> None:
    for foreign in (pickle.dumps(booster), booster.save_raw("json"), b"", b"\x00" * 100):
        with pytest.raises(UnsupportedModelError, match="not an XGBoost model in UBJSON"):
            ModelBundle.save(
                bundle.path.parent,
                name="m",
                model=bytes(foreign),
                schema=SCHEMA,
                metrics={},
                exclude_seen=False,
                lineage=lineage(),
            )
    (bundle.path / "model.pkl").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match=r"model\.pkl"):
        ModelBundle.load(bundle.path)
    with pytest.raises(NotFoundError):
        ModelBundle.load(bundle.path.parent / ("0" * 16))


def test_a_booster_that_does_not_fit_is_refused(tmp_path: Path, model: bytes) -> None:
    def saved(data: bytes, schema: FeatureSchema) -> ModelBundle:
        return ModelBundle.save(
            tmp_path, name="m", model=data, schema=schema, metrics={}, exclude_seen=False, lineage=lineage()
        )

    with pytest.raises(SchemaMismatchError, match="a, b"):
        saved(model, FeatureSchema((FeatureColumn("z", USER),))).booster()
    with pytest.raises(UnsupportedModelError, match="XGBoost cannot read"):
        saved(model[:200], SCHEMA).booster()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        ModelBundle.save(
            tmp_path / "models",
            name="m",
            model=model,
            schema=SCHEMA,
            metrics={},
            exclude_seen=False,
            lineage=lineage(),
        )


def test_importing_it_is_light() -> None:
    code = f"import sys, {model_bundle.__name__}; print([m for m in ('xgboost', 'dask', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
