"""The same answers as Feast's own feature server gives to the same requests on the same store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from feast.feature_server import get_app

from features.feast_repo import apply_feature_repo, open_feature_store, point_service_at
from materialize.settings import load_settings
from tests.serving_lookup.published_world import MODEL, PRECOMPUTED, PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.serving_lookup.published_world import RunningService, World

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast and what it imports warn of themselves


@pytest.fixture(scope="module")
def feast(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[dict[str, Any]], httpx.Response]]:
    """Asks the application that ``feast serve`` runs, on the world's store."""
    home = tmp_path_factory.mktemp("feast")
    settings = load_settings(home=home, project=PROJECT, model=MODEL, store={"url": world.url})
    apply_feature_repo(settings, world.tables.schema)
    point_service_at(settings, f"{MODEL}_a")
    with open_feature_store(settings) as store:
        transport = httpx.ASGITransport(get_app(store), raise_app_exceptions=False)

        async def ask(body: dict[str, Any]) -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://feast") as client:
                return await client.post("/get-online-features", json=body)

        with asyncio.Runner() as runner:
            yield lambda body: runner.run(ask(body))
            connections: Any = store._get_provider().online_store
            runner.run(connections._client_async.aclose())  # Feast leaves them open


def by_name(answer: dict[str, Any]) -> dict[str, Any]:
    """Vectors by feature: within a view Feast's order is that of a set, another in each process."""
    assert answer.keys() == {"results", "metadata"}
    assert answer["metadata"]["feature_names"][0] == "user_id"
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


def test_answers_are_feasts(
    world: World, service: RunningService, feast: Callable[[dict[str, Any]], httpx.Response]
) -> None:
    ids = world.tables.user_ids
    stranger = 987654321 if world.tables.id_type == "int64" else "nobody"
    users = [ids[0], ids[PRECOMPUTED], stranger, ids[9], ids[0]]
    lists = [f"{MODEL}_a:scores", "pair_features:bought", "affinity_category:visits", f"{MODEL}_a:item_ids"]
    requests: list[dict[str, Any]] = [
        {"feature_service": MODEL},
        {"feature_service": MODEL, "full_feature_names": True},
        {"features": ["user_features:age", "user_features:segment", "affinity_category:keys"]},
        {"features": lists, "full_feature_names": True},
        {"features": [*lists, f"{MODEL}_a:generation", f"{MODEL}_a:scores"][:5]},
        {"features": [f"{MODEL}_b:generation", f"{MODEL}_a:generation"], "full_feature_names": True},
        {"features": ["user_features:age"], "entities": {"user_id": users, "shop": [1] * len(users)}},
    ]
    for request in requests:
        body = {"entities": {"user_id": users}, **request}
        theirs = feast(body)
        ours = httpx.post(f"{service.address}/get-online-features", json=body)
        assert theirs.status_code == ours.status_code == 200, (theirs.text, ours.text)
        assert by_name(ours.json()) == by_name(theirs.json()), request


def test_what_feast_refuses_is_refused(
    world: World, service: RunningService, feast: Callable[[dict[str, Any]], httpx.Response]
) -> None:
    users = {"user_id": [world.tables.user_ids[0]]}
    age = "user_features:age"
    for body, status in (
        ({"entities": users, "feature_service": "other"}, 404),
        ({"entities": users, "features": ["no_view:age"]}, 404),
        ({"entities": users, "features": ["user_features:no_feature"]}, 404),
        ({"entities": users, "features": [age, age]}, 422),
        ({"entities": users}, 422),
        ({"entities": {"user_id": [1, 2], "x": [1]}, "features": [age]}, 422),
        ({"entities": {}, "features": [age]}, 422),
        ({"entities": {"user_id": [[]]}, "features": [age]}, 400),
    ):
        assert feast(body).status_code >= 400, body
        ours = httpx.post(f"{service.address}/get-online-features", json=body)
        assert ours.status_code == status, (body, ours.text)
        assert ours.headers["content-type"] == "application/problem+json"
