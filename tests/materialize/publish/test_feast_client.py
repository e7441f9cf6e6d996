"""An unmodified Feast client reads published lists through the feature service and follows flips, whole lists only."""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from pydantic import SecretStr

from features.feast_repo import (
    CACHE_SECONDS,
    apply_feature_repo,
    close_store,
    point_service_at,
    repo_path,
)
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


def read(client: FeatureStore, users: list[Any]) -> dict[str, list[Any]]:
    rows = [{"user_id": user} for user in users]
    try:
        service = client.get_feature_service("picks", allow_cache=True)
        return dict(client.get_online_features(service, rows).to_dict())
    except FeatureViewNotFoundException:
        # Feast's cache expired between the two calls and the service had moved: ask again, as the docs say.
        service = client.get_feature_service("picks", allow_cache=True)
        return dict(client.get_online_features(service, rows).to_dict())


@pytest.fixture(params=["int64", "string"])
def ids(request: pytest.FixtureRequest) -> list[Any]:
    return list(range(USERS)) if request.param == "int64" else [f"user {n}/ü" for n in range(USERS)]


def test_a_feast_client_reads_whole_lists_across_flips(
    tmp_path: Path, store_url: str, ids: list[Any]
) -> None:
    settings = Settings(
        project="shop", model="picks", home=tmp_path, store=StoreSettings(url=SecretStr(store_url))
    )
    kind: Any = "string" if isinstance(ids[0], str) else "int64"
    apply_feature_repo(settings, FeatureSchema((FeatureColumn("u_age", USER),), kind, "int64"))
    with RedisLoader(store_url, "shop") as loader:
        loader.load("picks_a", lists(ids, 1), dt.datetime.now(dt.UTC))
        point_service_at(settings, "picks_a")
        client = FeatureStore(repo_path=str(repo_path(settings)))
        seen: list[str] = []
        stop = threading.Event()

        def hammer() -> None:
            while not stop.is_set():
                found = read(client, [ids[0], ids[57], ids[-1]])
                for items, scores, generation in zip(
                    found["item_ids"], found["scores"], found["generation"], strict=True
                ):
                    number = int(generation[1:])
                    # One row is one command: never a list of one generation beside scores of another.
                    assert items == [number] * K
                    assert scores == [float(number)] * K
                seen.append(found["generation"][0])

        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                hammer()
            except BaseException as error:  # noqa: BLE001 - told to the test's own thread
                failures.append(error)

        reader = threading.Thread(target=guarded)
        reader.start()
        for number in (1, 2, 3):
            view = "picks_b" if number % 2 == 0 else "picks_a"
            loader.load(view, lists(ids, number), dt.datetime.now(dt.UTC))
            point_service_at(settings, view)
            until = time.monotonic() + CACHE_SECONDS + 10
            while f"g{number}" not in seen and not failures:
                assert time.monotonic() < until
                time.sleep(0.05)
        stop.set()
        reader.join()
        close_store(client)
    if failures:
        raise failures[0]
    assert list(dict.fromkeys(seen)) == ["g1", "g2", "g3"]


def test_a_user_without_a_row_reads_as_none(tmp_path: Path, store_url: str) -> None:
    settings = Settings(
        project="shop", model="picks", home=tmp_path, store=StoreSettings(url=SecretStr(store_url))
    )
    apply_feature_repo(settings, FeatureSchema((FeatureColumn("u_age", USER),), "int64", "int64"))
    with RedisLoader(store_url, "shop") as loader:
        loader.load("picks_a", lists([1, 2], 1), dt.datetime.now(dt.UTC))
        loader.remove_view("picks_a", pa.array([2]))
    client = FeatureStore(repo_path=str(repo_path(settings)))
    found = client.get_online_features(["picks_a:generation"], [{"user_id": n} for n in (1, 2, 3)]).to_dict()
    close_store(client)
    assert found["generation"] == ["g1", None, None]
