"""An unmodified Feast client reads published lists through the feature service, with ids of both types."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from features.feast_repo import apply_feature_repo, open_feature_store, point_service_at
from features.schema import USER, FeatureColumn, FeatureSchema
from materialize.publish.published_lists import lists_table
from materialize.publish.redis_loader import RedisLoader
from materialize.settings import Settings, StoreSettings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast and what it imports warn of themselves

USERS, K = 200, 20


def lists(ids: list[Any], number: int) -> pa.Table:
    """Lists in which every item and score tells the generation's number."""
    n = len(ids) * K
    scores = np.full(n, number, np.float32)
    return lists_table(
        pa.array(ids), pa.array(np.full(n, number)), scores, np.full(len(ids), K), f"g{number}"
    )


@pytest.fixture(params=["int64", "string"])
def ids(request: pytest.FixtureRequest) -> list[Any]:
    return list(range(USERS)) if request.param == "int64" else [f"user {n}/ü" for n in range(USERS)]


def test_a_feast_client_reads_the_lists_that_the_service_names(
    tmp_path: Path, store_url: str, ids: list[Any]
) -> None:
    settings = Settings(
        project="shop", model="picks", home=tmp_path, store=StoreSettings(url=SecretStr(store_url))
    )
    kind: Any = "string" if isinstance(ids[0], str) else "int64"
    apply_feature_repo(settings, FeatureSchema((FeatureColumn("u_age", USER),), kind, "int64"))
    rows = [{"user_id": user} for user in (ids[0], ids[57], ids[-1])]
    with RedisLoader(store_url, "shop") as loader:
        for number, slot in enumerate(("picks_a", "picks_b", "picks_a")):
            loader.load(slot, lists(ids, number), dt.datetime.now(dt.UTC))
            point_service_at(settings, slot)
            with open_feature_store(settings) as client:
                found = client.get_online_features(client.get_feature_service("picks"), rows).to_dict()
            assert found["item_ids"] == [[number] * K] * 3
            assert found["scores"] == [[float(number)] * K] * 3
            assert found["generation"] == [f"g{number}"] * 3


def test_a_user_without_a_row_reads_as_none(tmp_path: Path, store_url: str) -> None:
    settings = Settings(
        project="shop", model="picks", home=tmp_path, store=StoreSettings(url=SecretStr(store_url))
    )
    apply_feature_repo(settings, FeatureSchema((FeatureColumn("u_age", USER),), "int64", "int64"))
    with RedisLoader(store_url, "shop") as loader:
        loader.load("picks_a", lists([1, 2], 1), dt.datetime.now(dt.UTC))
        loader.remove_view("picks_a", pa.array([2]))
    with open_feature_store(settings) as client:
        rows = [{"user_id": n} for n in (1, 2, 3)]
        found = client.get_online_features(["picks_a:generation"], rows).to_dict()
    assert found["generation"] == ["g1", None, None]
