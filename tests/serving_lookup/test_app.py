"""Answers over HTTP from a real server on a real store."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from tests.serving_lookup.published_world import MODEL, PRECOMPUTED, USERS, K

if TYPE_CHECKING:
    from tests.serving_lookup.published_world import RunningService, World


def path_of(user: Any, rest: str = "recommendations") -> str:
    return f"/v1/models/{MODEL}/users/{quote(str(user), safe='')}/{rest}"


def pairs_of(answer: dict[str, Any]) -> list[tuple[Any, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def expected_pairs(world: World, generation: str, index: int, k: int) -> list[tuple[Any, float]]:
    top = world.expected(generation)
    count = min(k, int(top.counts[index]))
    return list(zip(top.item_ids[index, :count].tolist(), top.scores[index, :count].tolist(), strict=True))


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 5, 6, 7, PRECOMPUTED - 1])
def test_hit_is_what_was_published(world: World, service: RunningService, index: int) -> None:
    response = service.get(path_of(world.tables.user_ids[index]) + "?k=7")
    answer = response.json()
    assert response.status_code == 200, answer
    assert pairs_of(answer) == expected_pairs(world, "g1", index, 7)
    assert (answer["source"], answer["generation"], answer["model"]) == ("precomputed", "g1", "model-1")
    assert answer["feature_cutoff"].startswith("2026-01-01")
    assert 0 <= answer["age_seconds"] < 600
    assert (response.headers["etag"], response.headers["cache-control"]) == ('W/"g1"', "no-cache")
    for tag in ('W/"g1"', '"g1"', '"g0", W/"g1"', "*"):
        unchanged = service.get(path_of(world.tables.user_ids[index]), headers={"if-none-match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b""), tag
    changed = service.get(path_of(world.tables.user_ids[index]), headers={"if-none-match": 'W/"g0"'})
    assert changed.status_code == 200


@pytest.mark.parametrize("index", [PRECOMPUTED, PRECOMPUTED + 9, USERS - 1])
def test_miss_is_what_a_full_run_would_have_published(
    world: World, service: RunningService, index: int
) -> None:
    world.forget_on_demand_lists()
    for _ in range(2):  # the second one is remembered
        response = service.get(path_of(world.tables.user_ids[index]) + f"?k={K}")
        answer = response.json()
        assert answer["source"] == "fallback", answer
        assert pairs_of(answer) == expected_pairs(world, "g1", index, K)
        assert "etag" not in response.headers
    assert len(list(world.client.scan_iter("prescore:*:fallback:g1:*"))) == 1


def test_unknown_user_gets_the_default_list(world: World, service: RunningService) -> None:
    unknown = 987654321 if world.tables.id_type == "int64" else "nobody / knows"
    answer = service.get(path_of(unknown) + "?k=3").json()
    assert answer["source"] == "default"
    assert answer["reason"] == "unknown_user"
    assert [item["item_id"] for item in answer["items"]] == world.tables.item_ids[1:4]


def test_titles_exclusions_and_message_pack(world: World, service: RunningService) -> None:
    user = world.tables.user_ids[0]
    best = expected_pairs(world, "g1", 0, K)
    without = [best[0][0], best[2][0]]
    query = "?k=4&fields=title&exclude=" + ",".join(quote(str(item), safe="") for item in without)
    answer = service.get(path_of(user) + query).json()
    assert pairs_of(answer) == [pair for pair in best if pair[0] not in without][:4]
    titles = dict(zip(world.tables.item_ids, world.tables.items["title"].to_pylist(), strict=True))
    assert [item.get("title") for item in answer["items"]] == [titles[i["item_id"]] for i in answer["items"]]
    packed = service.get(path_of(user) + query, headers={"accept": "application/vnd.msgpack"})
    assert packed.headers["content-type"] == "application/vnd.msgpack"
    assert msgspec.msgpack.decode(packed.content)["items"] == answer["items"]


def ageless(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for answer in answers:
        answer.get("answer", {}).pop("age_seconds", None)
    return answers


def test_batch_answers_each_user_or_says_why_not(world: World, service: RunningService) -> None:
    ids = world.tables.user_ids
    users = [ids[0], ids[PRECOMPUTED], True, "" if world.tables.id_type == "string" else "no number"]
    body = {"users": users, "k": 5}
    path = f"/v1/models/{MODEL}/recommendations:batch"
    response = httpx.post(f"{service.address}{path}", json=body)
    # Head and body in one piece go the short way; what they say must not depend on it.
    raw = json.dumps(body).encode()
    for accept, decode in (("*/*", json.loads), ("application/msgpack", msgspec.msgpack.decode)):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\ncontent-length: {len(raw)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(service.address.rsplit(":", 1)[1]))) as client:
            client.sendall(head.encode() + raw)
            at_once = http.client.HTTPResponse(client)
            at_once.begin()
            assert at_once.getheader("x-request-id")
            answers = decode(at_once.read())["users"]
        assert ageless(answers) == ageless(response.json()["users"])
    first, second, third, fourth = response.json()["users"]
    assert pairs_of(first["answer"]) == expected_pairs(world, "g1", 0, 5)
    assert second["answer"]["source"] == "fallback"
    assert pairs_of(second["answer"]) == expected_pairs(world, "g1", PRECOMPUTED, 5)
    assert third["problem"]["status"] == fourth["problem"]["status"] == 400
    assert response.status_code == 200


def test_pair_score_is_the_lists_score(world: World, service: RunningService) -> None:
    item, score = expected_pairs(world, "g1", 3, 1)[0]
    user = world.tables.user_ids[3]
    answer = service.get(path_of(user, f"items/{quote(str(item), safe='')}/score"))
    assert answer.json()["score"] == score, answer.json()
    stranger = "424242" if world.tables.id_type == "int64" else "no such item"
    problem = service.get(path_of(user, f"items/{quote(stranger, safe='')}/score"))
    assert (problem.status_code, problem.json()["type"]) == (404, "urn:prescore:problem:unknown-item")


def test_inline_features_give_the_same_list(world: World, service: RunningService) -> None:
    index, user = 5, world.tables.user_ids[5]
    row = world.tables.users.slice(index, 1).to_pylist()[0]
    affinities = [r for r in world.tables.affinities.to_pylist() if r["user_id"] == user]
    pairs = [r for r in world.tables.pairs.to_pylist() if r["user_id"] == user]
    body: dict[str, object] = {
        "user": {"age": row["age"], "segment": row["segment"]},
        "affinity": {
            "category": {
                "keys": [r["category"] for r in affinities],
                "features": {"visits": [r["visits"] for r in affinities]},
            }
        },
        "pairs": {
            "item_ids": [r["item_id"] for r in pairs],
            "features": {"bought": [r["bought"] for r in pairs]},
        },
        "k": 6,
    }
    url = f"{service.address}/v1/models/{MODEL}/score"
    answer = httpx.post(url, json=body)
    assert pairs_of(answer.json()) == expected_pairs(world, "g1", index, 6)
    assert answer.json()["source"] == "fallback"
    refused = httpx.post(url, json={"user": {"aeg": 3}})
    assert refused.status_code == 422
    assert "'aeg'" in refused.json()["detail"]
    wrong: list[dict[str, object]] = [
        {"user": {"age": "old"}},
        {"user": {"segment": 3}},
        {"affinity": {"brand": {"keys": [], "features": {}}}},
        {"affinity": {"category": {"keys": ["x"], "features": {"visits": [1, 2]}}}},
        {"affinity": {"category": {"keys": ["x", "x"], "features": {}}}},
        {"unknown": 1},
    ]
    for unfit in wrong:
        assert httpx.post(url, json=unfit).status_code == 422, unfit


@pytest.mark.parametrize(
    "query",
    [
        "k=0",
        "k=-1",
        "k=x",
        "k=",
        "k=1001",
        "k=9999999999",
        "k=1&k=2",
        "exlude=1",
        "fields=price",
        "k=%FF",
        "k=1,2",
    ],
)
def test_wrong_parameters_are_explained(world: World, service: RunningService, query: str) -> None:
    response = service.get(path_of(world.tables.user_ids[0]) + "?" + query)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/other/users/1/recommendations", 404),
        ("/v1/users/1/recommendations", 404),
        (f"/v1/models/{MODEL}/users/{'9' * 2000}/recommendations", 400),
        (f"/v1/models/{MODEL}/users/%FF/recommendations", 400),
        (f"/v1/models/{MODEL}/users//recommendations", 400),
        ("/nothing", 404),
        (f"/v1/models/{MODEL}/recommendations:batch", 405),
    ],
)
def test_wrong_paths_are_explained(service: RunningService, path: str, status: int) -> None:
    response = service.get(path)
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[]", {}, 422),
        (b'{"users": ' + b"[" * 100_000, {}, 400),
        (b'{"users": 3}', {}, 422),
        (b'{"users": [], "k": 0}', {}, 400),
        (b'{"users": [' + b"1," * 1000 + b"1]}", {}, 413),
        (b" " * 1_000_001, {}, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b'{"users": []}', {"accept": "image/png"}, 406),
    ],
)
def test_wrong_bodies_are_explained(
    service: RunningService, body: bytes, headers: dict[str, str], status: int
) -> None:
    url = f"{service.address}/v1/models/{MODEL}/recommendations:batch"
    response = httpx.post(url, content=body, headers={"content-type": "application/json", **headers})
    assert (response.status_code, response.json()["status"]) == (status, status)


def test_description_names_every_route_and_needs_nothing_from_elsewhere(service: RunningService) -> None:
    description = service.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/models/{model}/users/{user}/recommendations",
        "/v1/models/{model}/recommendations:batch",
        "/v1/models/{model}/users/{user}/items/{item}/score",
        "/v1/models/{model}/score",
        "/v1/models/{model}/users/{user}/explain",
        "/v1/models/{model}/users/{user}/seen",
        "/get-online-features",
        "/v1/generations",
        "/v1/models",
        "/health/live",
        "/health/ready",
    }
    references = json.dumps(description).split('"$ref": "#/components/schemas/')[1:]
    assert {text.split('"', 1)[0] for text in references} <= set(description["components"]["schemas"])
    for path in ("/docs", "/"):
        page = service.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text
        assert "src=" not in page.text


def test_operations_routes(world: World, service: RunningService) -> None:
    assert service.get("/health/live").json() == {"live": True}
    assert service.get("/health/ready").json() == {"ready": True, "serving": "g1", "trouble": []}
    assert service.get("/v1/generations").json()["live"]["generation"] == "g1"
    model = service.get("/v1/models").json()["models"][0]
    assert (model["name"], model["items"], model["k"]) == (MODEL, 300, K)
    assert model["features"]["visits"] == "affinity:category"


def test_counters_of_all_workers_are_read_together(world: World, service: RunningService) -> None:
    line = 'prescore_requests_total{route="recommendations",source="precomputed",status="200"}'
    before = service.metric(line)
    for _ in range(20):  # each on a new connection, so both workers answer some
        service.get(path_of(world.tables.user_ids[0]))
    assert {service.metric(line) for _ in range(10)} == {before + 20}
