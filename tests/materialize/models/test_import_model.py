"""Models from elsewhere score in a bundle as they do at home, and files that are none are refused."""

from __future__ import annotations

import pickle
import random
import re
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pytest
import treelite
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier

from features.errors import NotFoundError, PrescoreError, SchemaMismatchError, UnsupportedModelError
from features.schema import FeatureSchema
from materialize.models.import_model import import_file, import_model
from materialize.models.registry import Registry
from materialize.scoring.model_reader import read_xgboost

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings
    from tests.materialize.models.conftest import Elsewhere

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


def margins(bundle: ModelBundle, values: Any) -> Any:
    return bundle.booster().inplace_predict(values, predict_type="margin")


@pytest.fixture
def schema_file(elsewhere: Elsewhere, tmp_path: Path) -> Path:
    file = tmp_path / "schema.json"
    file.write_text(elsewhere.schema.to_json())
    return file


def test_files(settings: Settings, elsewhere: Elsewhere, schema_file: Path, tmp_path: Path) -> None:
    rows = elsewhere.values[:2000]
    theirs = elsewhere.lightgbm()
    theirs.save_model(tmp_path / "model.txt")
    bundle = import_file(settings, tmp_path / "model.txt", schema_file)
    assert np.allclose(margins(bundle, rows), theirs.predict(rows, raw_score=True), rtol=1e-5, atol=1e-5)
    assert import_file(settings, tmp_path / "model.txt", schema_file).id == bundle.id
    assert Registry.open(settings).alias("challenger") == bundle.id
    assert bundle.lineage.parameters["imported"] != bundle.id

    treelite.frontend.from_lightgbm(theirs).serialize(tmp_path / "model.tl")
    same = import_file(settings, tmp_path / "model.tl", schema_file)
    assert same.model_bytes == bundle.model_bytes

    booster = elsewhere.booster()
    booster.set_attr(best_iteration="11", note="of no use to anybody")
    for name in ("model.ubj", "model.json"):
        booster.save_model(tmp_path / name)
        bundle = import_file(settings, tmp_path / name, schema_file, exclude_seen=True)
        assert np.array_equal(margins(bundle, rows), margins_of(booster, rows, 12))
        assert bundle.booster().num_boosted_rounds() == 12 + 1, "a base score is a tree of one leaf"
        assert (bundle.exclude_seen, bundle.booster().attributes()) == (True, {})


def margins_of(booster: Any, rows: Any, rounds: int) -> Any:
    return booster.inplace_predict(rows, predict_type="margin", iteration_range=(0, rounds))


def test_live_models(settings: Settings, elsewhere: Elsewhere) -> None:
    rows, labels = elsewhere.values[::3], elsewhere.labels[::3]
    filled = np.nan_to_num(rows, nan=-1)
    numbers = FeatureSchema(tuple(c for c in elsewhere.schema.columns if c.vocabulary is None))
    kept = [n for n, column in enumerate(elsewhere.schema.columns) if column.vocabulary is None]
    gradient = GradientBoostingClassifier(n_estimators=8, random_state=0).fit(filled[:, kept], labels)
    histogram = HistGradientBoostingRegressor(max_iter=8, random_state=0).fit(rows[:, kept], labels)
    votes = RandomForestClassifier(8, max_depth=6, random_state=0, n_jobs=1).fit(filled[:, kept], labels)
    for model, inputs, expected in (
        (gradient, filled, gradient.decision_function(filled[:, kept])),
        (histogram, rows, histogram.predict(rows[:, kept])),
        (votes, filled, votes.predict_proba(filled[:, kept])[:, 1]),
    ):
        bundle = import_model(settings, model, numbers)
        assert np.allclose(margins(bundle, inputs[:, kept]), expected, rtol=1e-5, atol=1e-5)
        assert len(read_xgboost(bundle.model_bytes)) in {8, 9}
    estimator = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows[:, kept], labels)
    bundle = import_model(settings, estimator, numbers)
    expected = estimator.booster_.predict(rows[:, kept], raw_score=True)
    assert np.allclose(margins(bundle, rows[:, kept]), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match="a dict is no model"):
        import_model(settings, {}, elsewhere.schema)


def test_what_is_refused(settings: Settings, elsewhere: Elsewhere, schema_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model"

    def refused(content: bytes, message: str, kind: type[PrescoreError] = UnsupportedModelError) -> None:
        file.write_bytes(content)
        with pytest.raises(kind, match=message):
            import_file(settings, file, schema_file)

    refused(pickle.dumps([1]), "pickle or an archive, which is never opened")
    refused(b"", "is not a whole treelite model|cannot be read as a treelite model")
    refused(b"some text\n" * 20, "treelite model")
    refused(b"tree\nversion=v4\n", "is cut off")
    refused(b'{"learner": {}}', "structure of an XGBoost model")
    trained = elsewhere.lightgbm().model_to_string().encode()
    refused(trained[: len(trained) // 2], "is cut off")
    refused(trained.replace(b"\nleft_child=", b"\nleft_child=7"), "lightgbm model|damaged")
    refused(re.sub(rb"decision_type=\d+", b"decision_type=6", trained), "takes zeros for missing values")
    checkpoint = bytes(treelite.frontend.from_lightgbm(elsewhere.lightgbm()).serialize_bytes())
    refused(checkpoint[: len(checkpoint) // 3], "treelite model")
    fewer = FeatureSchema(elsewhere.schema.columns[1:])
    schema_file.write_text(fewer.to_json())
    refused(trained, "the schema's features are not the model's", SchemaMismatchError)
    refused(bytes(elsewhere.booster(rounds=1).save_raw("ubj")), "schema", SchemaMismatchError)
    schema_file.write_text("[]")
    refused(trained, "schema cannot be read", SchemaMismatchError)
    schema_file.write_bytes(b"\xff\xfe")
    refused(trained, "is not JSON", SchemaMismatchError)
    with pytest.raises(NotFoundError, match="no file"):
        import_file(settings, tmp_path / "nothing", schema_file)
    assert Registry.open(settings).models() == []
    assert not settings.models_path.exists()


def test_an_altered_xgboost_file_is_refused_or_still_a_model(
    settings: Settings, elsewhere: Elsewhere, schema_file: Path, tmp_path: Path
) -> None:
    """No flipped or missing bytes end the process or raise anything but an error that is explained."""
    raw = bytes(elsewhere.booster(rounds=3).save_raw("ubj"))
    file = tmp_path / "model.ubj"
    draw = random.Random(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(raw)
        if trial % 2:
            damaged[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(raw)) :]
        file.write_bytes(damaged)
        try:
            import_file(settings, file, schema_file)
        except PrescoreError:
            refused += 1
    assert refused >= 30, "whatever is cut is refused"
