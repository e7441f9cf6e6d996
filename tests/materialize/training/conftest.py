"""One cluster for all training tests, and small tables to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with open_cluster(ClusterSettings(kind="local", workers=2)) as client:
        yield client
