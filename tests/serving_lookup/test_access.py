"""Keys: who may ask, and that nobody is served by accident."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from features.errors import SettingsError
from materialize.settings import LookupSettings
from serving_lookup.access import KeyRing, check_exposure
from serving_lookup.problems import Problem
from tests.serving_lookup.published_world import MODEL, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import World


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    "header", [(b"x-api-key", b"two"), (b"authorization", b"Bearer two"), (b"authorization", b"bearer one")]
)
def test_any_of_several_keys_opens(header: tuple[bytes, bytes]) -> None:
    KeyRing([hashed("one"), hashed("two")]).check([(b"accept", b"*/*"), header])


@pytest.mark.parametrize(
    "headers", [[], [(b"x-api-key", b"three")], [(b"x-api-key", b"")], [(b"authorization", b"Basic two")]]
)
def test_nothing_else_does(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Problem) as caught:
        KeyRing([hashed("one"), hashed("two")]).check(headers)
    assert caught.value.status == 401
    assert (b"www-authenticate", b"Bearer") in caught.value.headers


def test_strangers_are_not_served_by_accident() -> None:
    check_exposure(LookupSettings(), "127.0.0.1")
    check_exposure(LookupSettings(), "::1")
    check_exposure(LookupSettings(anonymous=True), "0.0.0.0")
    check_exposure(LookupSettings(api_keys=(hashed("one"),)), "0.0.0.0")
    for settings, address in ((LookupSettings(), "0.0.0.0"), (LookupSettings(anonymous=False), "127.0.0.1")):
        with pytest.raises(SettingsError, match="answer anyone"):
            check_exposure(settings, address)


def test_keys_guard_everything_but_probes_and_pages(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings = {"api_keys": json.dumps([hashed("open sesame")])}
    with start_service(tmp_path, own_world.url, free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        for path in (
            f"/v1/models/{MODEL}/users/1/recommendations",
            "/v1/models",
            "/metrics",
            "/nothing",
        ):
            refused = service.get(path)
            assert (refused.status_code, refused.json()["type"]) == (401, "urn:prescore:problem:api-key"), (
                path
            )
            assert refused.headers["www-authenticate"] == "Bearer"
            assert service.get(path, headers={"x-api-key": "open sesame"}).status_code in {200, 404}
        assert {service.get(path).status_code for path in ("/", "/docs", "/openapi.json")} == {200}
        assert b"sesame" not in service.log.read_bytes()
