"""Keys: who may ask, and that nobody is served by accident."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from features.errors import SettingsError
from materialize.settings import LookupSettings
from serving_lookup.access import KeyRing, check_exposure
from serving_lookup.problems import Problem
from serving_lookup.worker import tls_of
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


def test_a_file_of_keys_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyRing((), file)
    file.write_text(f"{hashed('one')} the shop\n\n{hashed('two')}\n")
    ring = KeyRing([hashed("fixed")], file)
    for key in (b"one", b"two", b"fixed"):
        ring.check([(b"x-api-key", key)])
    file.write_text("")
    ring.refresh()
    assert ring.asks  # a file without keys lets nobody in
    with pytest.raises(Problem):
        ring.check([(b"x-api-key", b"one")])
    file.write_text("no hash\n")
    for _ in range(2):
        ring.refresh()  # changes nothing
    ring.check([(b"x-api-key", b"fixed")])


def test_keys_come_and_go_behind_tls_and_metrics_have_their_own_address(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    certificate, key = self_signed(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text(hashed("open sesame") + "\n")
    main, metrics = free_port(), free_port()
    settings = {
        "port": main,
        "metrics_port": metrics,
        "tls_certificate": certificate,
        "tls_key": key,
        "api_keys_file": keys,
    }
    user = "314159265"
    path = f"/v1/models/{MODEL}/users/{user}/recommendations?k=3"
    trusted = ssl.create_default_context(cafile=str(certificate))
    with (
        start_service(tmp_path, own_world.url, metrics, settings) as operations,
        httpx.Client(base_url=f"https://127.0.0.1:{main}", verify=trusted, timeout=30) as client,
    ):
        wait_until(lambda: operations.get("/health/ready").status_code == 200)

        def status(key: str) -> int:
            return client.get(path, headers={"x-api-key": key}).status_code

        assert (status("open sesame"), status("wrong"), client.get(path).status_code) == (200, 401, 401)
        keys.write_text(hashed("another") + "\n")
        wait_until(lambda: (status("open sesame"), status("another")) == (401, 200))
        assert operations.get(path).json()["type"] == "urn:prescore:problem:no-such-path"
        assert client.get("/metrics").status_code == 401
        told = operations.get("/metrics").text
        assert 'status="401"' in told
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{main}{path}")
        assert status("another") == 200
        log = operations.log.read_text()
        assert "request_refused" in log
        for secret in ("sesame", "another", user):
            assert secret not in log + told


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prescore test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return files


def test_tls_that_cannot_be_set_up_is_told(tmp_path: Path) -> None:
    certificate, _ = self_signed(tmp_path)
    assert tls_of(LookupSettings()) is None
    for wrong in (
        {"tls_certificate": str(certificate)},
        {"tls_certificate": str(certificate), "tls_key": str(certificate)},
        {"tls_certificate": str(tmp_path / "none"), "tls_key": str(tmp_path / "none")},
    ):
        with pytest.raises(SettingsError, match="TLS cannot be set up"):
            tls_of(LookupSettings(**wrong))
