"""LightGBM and scikit-learn models score as their own ``predict`` does."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import treelite
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from features.errors import SchemaMismatchError, UnsupportedModelError
from features.schema import FeatureColumn, FeatureSchema
from materialize.scoring import ITEM, USER, PairScorer

USERS, ITEMS = 30, 40
RNG = np.random.default_rng(0)
SIDES = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (USERS, ITEMS)]
for side in SIDES:
    side[:, 1] = RNG.integers(0, 9, len(side))
CROSS = np.hstack([np.repeat(SIDES[0], ITEMS, axis=0), np.tile(SIDES[1], (USERS, 1))])
LABEL = (CROSS[:, 0] + CROSS[:, 2] + (CROSS[:, 1] % 2) * (CROSS[:, 3] % 3) > 1).astype(np.float64)
SCOPES = {"u0": USER, "u1": USER, "i0": ITEM, "i1": ITEM}


def scores(model: Any, missing: bool = False, output: Any = "margin") -> Any:
    user, item = (side.copy() for side in SIDES)
    if missing:
        user[::3], item[::4, 0] = np.nan, np.nan
    catalogue = PairScorer.from_treelite(model, SCOPES).bind(
        pa.table({"item_id": range(ITEMS), "i0": item[:, 0], "i1": item[:, 1]})
    )
    users = pa.table({"user_id": range(USERS), "u0": user[:, 0], "u1": user[:, 1]})
    return catalogue.score(users, output=output).reshape(-1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("objective", ["binary", "regression", "poisson", "lambdarank"])
def test_lightgbm(objective: str, missing: bool) -> None:
    cross = CROSS.copy()
    if missing:
        user, item = np.repeat(np.arange(USERS), ITEMS), np.tile(np.arange(ITEMS), USERS)
        cross[user % 3 == 0, :2] = np.nan
        cross[item % 4 == 0, 2] = np.nan
    group = [ITEMS] * USERS if objective == "lambdarank" else None
    data = lightgbm.Dataset(cross, LABEL, categorical_feature=[1, 3], group=group)
    settings = {
        "objective": objective,
        "num_leaves": 15,
        "verbose": -1,
        "num_threads": 1,
        "min_data_per_group": 5,
    }
    booster = lightgbm.train(settings, data, 8)
    got = scores(treelite.frontend.from_lightgbm(booster), missing)
    np.testing.assert_allclose(got, booster.predict(cross, raw_score=True), rtol=1e-5, atol=1e-6)
    if objective != "lambdarank":
        got = scores(treelite.frontend.from_lightgbm(booster), missing, "transformed")
        np.testing.assert_allclose(got, booster.predict(cross), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(8, max_depth=5, random_state=0),
        ExtraTreesRegressor(8, max_depth=5, random_state=0),
        GradientBoostingRegressor(n_estimators=8, random_state=0),
        HistGradientBoostingRegressor(max_iter=8, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_regressors(model: Any) -> None:
    model.fit(CROSS, LABEL)
    got = scores(treelite.sklearn.import_model(model))
    np.testing.assert_allclose(got, model.predict(CROSS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [GradientBoostingClassifier(n_estimators=8, random_state=0), HistGradientBoostingClassifier(max_iter=8)],
    ids=lambda model: type(model).__name__,
)
def test_boosted_classifiers(model: Any) -> None:
    model.fit(CROSS, LABEL)
    got = scores(treelite.sklearn.import_model(model))
    np.testing.assert_allclose(got, model.decision_function(CROSS), rtol=1e-5, atol=1e-6)


def test_a_binary_random_forest_gives_the_second_class() -> None:
    model = RandomForestClassifier(8, max_depth=5, random_state=0).fit(CROSS, LABEL)
    got = scores(treelite.sklearn.import_model(model))
    np.testing.assert_allclose(got, model.predict_proba(CROSS)[:, 1], rtol=1e-5, atol=1e-6)


def test_thresholds_are_not_rounded_to_the_other_side() -> None:
    # Splits between neighbouring float32 lie on float64 midpoints that float32 cannot hold.
    base = np.float32(1)
    values = [base]
    for _ in range(ITEMS - 1):
        values.append(np.nextafter(values[-1], np.float32(2)))
    column = np.array(values, np.float32)
    matrix = np.stack([np.zeros(ITEMS), np.zeros(ITEMS), column, np.zeros(ITEMS)], axis=1)
    model = RandomForestRegressor(3, random_state=0).fit(matrix, np.arange(ITEMS) % 2)
    catalogue = PairScorer.from_treelite(treelite.sklearn.import_model(model), SCOPES).bind(
        pa.table({"item_id": range(ITEMS), "i0": column, "i1": np.zeros(ITEMS)})
    )
    got = catalogue.score(pa.table({"user_id": [1], "u0": [0.0], "u1": [0.0]}))[0]
    np.testing.assert_allclose(got, model.predict(matrix), rtol=1e-6)


def test_several_classes_are_refused() -> None:
    model = RandomForestClassifier(2, max_depth=2).fit(CROSS, RNG.integers(0, 3, len(CROSS)))
    with pytest.raises(UnsupportedModelError, match="3 classes"):
        PairScorer.from_treelite(treelite.sklearn.import_model(model), SCOPES)


def test_a_schema_must_tell_categories_as_the_model_does() -> None:
    data = lightgbm.Dataset(CROSS, LABEL, categorical_feature=[1, 3])
    model = treelite.frontend.from_lightgbm(lightgbm.train({"objective": "binary", "verbose": -1}, data, 4))
    words = tuple("abcdefghi")
    right = [FeatureColumn(n, s, words if n.endswith("1") else None) for n, s in SCOPES.items()]
    PairScorer.from_treelite(model, FeatureSchema(tuple(right)))
    for wrong in (0, 1):
        columns = list(right)
        columns[wrong] = FeatureColumn(columns[wrong].name, USER, None if wrong else words)
        with pytest.raises(SchemaMismatchError, match=f"'u{wrong}' differs"):
            PairScorer.from_treelite(model, FeatureSchema(tuple(columns)))
