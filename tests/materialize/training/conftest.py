"""One cluster and one trained model for all training tests."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest

from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings, Settings
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
