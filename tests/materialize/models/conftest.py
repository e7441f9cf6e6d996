"""A shop with features of two windows, and what models of elsewhere learn from the older one."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import xgboost

from features.build import build_features
from features.sources import open_sources
from features.training_set import training_matrix
from materialize.settings import Settings, load_settings
from materialize.training.label_windows import LabelWindow, pairs_in_window
from tests.shop import CUTOFF, write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from features.schema import FeatureSchema

WINDOW = timedelta(days=28)
LEARNED = CUTOFF - WINDOW
"""What the models have learned from ends here; from here on they are compared."""


@dataclass(frozen=True)
class Elsewhere:
    """A team with its own training: features of all pairs as of a window's start, and which had an event in it."""

    folder: Path
    schema: FeatureSchema
    values: NDArray[np.float32]
    labels: NDArray[np.float32]
    learned: datetime = LEARNED

    @property
    def types(self) -> list[str]:
        return [column.feature_type for column in self.schema.columns]

    def booster(self, *, rounds: int = 20, shuffled: int | None = None) -> xgboost.Booster:
        """An XGBoost model; one that was shown shuffled labels has learned nothing."""
        labels = self.labels
        if shuffled is not None:
            labels = np.random.default_rng(shuffled).permutation(labels)
        matrix = xgboost.DMatrix(
            self.values,
            labels,
            feature_names=self.schema.names,
            feature_types=self.types,
            enable_categorical=True,
        )
        parameters = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.3, "nthread": 1}
        return xgboost.train(parameters, matrix, rounds)

    def lightgbm(self) -> lightgbm.Booster:
        """A LightGBM model of the same rows."""
        data = lightgbm.Dataset(
            self.values.astype(np.float64),
            self.labels,
            feature_name=self.schema.names,
            categorical_feature=[n for n, kind in enumerate(self.types) if kind == "c"],
        )
        parameters = {"objective": "binary", "num_leaves": 15, "verbose": -1, "num_threads": 1, "seed": 0}
        return lightgbm.train(parameters, data, 20)


def learn(settings: Settings) -> Elsewhere:
    """Everything a training elsewhere needs, from Prescore's features as of the older window's start."""
    window = LabelWindow(LEARNED - WINDOW, LEARNED)
    with warnings.catch_warnings():
        # Ibis calls what DuckDB has deprecated; marks on tests do not reach fixtures.
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        with open_sources(settings) as sources:
            build = build_features(settings, window.start, settings.features_path, sources=sources)
            events = pairs_in_window(sources.events, window, build.read_items(["item_id"]))
        users, items = build.read_users()["user_id"], build.read_items()["item_id"]
        pairs = pa.table(
            {
                "user_id": np.repeat(users.to_numpy(), len(items)),
                "item_id": np.tile(items.to_numpy(), len(users)),
                "event_timestamp": pa.repeat(
                    pa.scalar(window.start, pa.timestamp("us", "UTC")), len(users) * len(items)
                ),
            }
        )
        values = training_matrix(pairs, [build])
    had = set(zip(*events.select(["user_id", "item_id"]).to_pydict().values(), strict=True))
    asked = zip(*pairs.select(["user_id", "item_id"]).to_pydict().values(), strict=True)
    labels = np.array([pair in had for pair in asked], np.float32)
    return Elsewhere(settings.features_path.parent, build.schema, values, labels)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Elsewhere]:
    settings = load_settings(write_shop(tmp_path_factory.mktemp("shop")))
    return settings, learn(settings)


@pytest.fixture
def elsewhere(built: tuple[Settings, Elsewhere]) -> Elsewhere:
    return built[1]


@pytest.fixture
def settings(built: tuple[Settings, Elsewhere]) -> Iterator[Settings]:
    """The shop, without a model."""
    yield built[0]
    shutil.rmtree(built[0].models_path, ignore_errors=True)
    shutil.rmtree(built[0].features_path / f"{LEARNED:%Y%m%dT%H%M%SZ}", ignore_errors=True)
    for file in built[0].home.glob("catalogue.db*"):
        file.unlink()
