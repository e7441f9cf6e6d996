"""One cluster and one trained model for all training tests."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from features.build import build_features
from features.sources import open_sources
from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings, Settings
from materialize.training.evaluate import EvaluationTask
from materialize.training.label_windows import LabelWindow
from materialize.training.train import train_model
from tests.materialize.training.small_tables import CUTOFF, grocery, write_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from materialize.model_bundle import ModelBundle


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with open_cluster(ClusterSettings(kind="local", workers=2)) as client:
        yield client


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return write_tables(tmp_path_factory.mktemp("grocery"), grocery())


@pytest.fixture(scope="session")
def bundle(settings: Settings, client: Client) -> ModelBundle:
    with warnings.catch_warnings():
        # Ibis calls what DuckDB has deprecated; marks on tests do not reach fixtures.
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        return train_model(settings, CUTOFF, client)


@pytest.fixture(scope="session")
def task(settings: Settings) -> EvaluationTask:
    """The last four weeks, to be ranked."""
    window = LabelWindow(CUTOFF - timedelta(days=28), CUTOFF)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        with open_sources(settings) as sources:
            build = build_features(settings, window.start, settings.features_path, sources=sources)
            return EvaluationTask.prepare(sources.events, build, window, exclude_seen=False)
