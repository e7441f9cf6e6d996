"""Cluster, Sentinel and TLS: real servers, real failovers."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.cluster import RedisCluster
from redis.crc import key_slot

from features.errors import StoreError
from materialize.publish.feast_block import encode_column, encode_timestamps, entity_keys
from materialize.publish.feast_format import decode_value, entity_key, field_hash
from materialize.publish.published_lists import lists_table
from materialize.publish.redis_loader import RedisLoader
from tests.store_proxy import StoreProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.materialize.publish.conftest import Server, Start

NOW = dt.datetime(2017, 12, 4, tzinfo=dt.UTC)
USERS = 5000


def slot(users: int = USERS, generation: str = "g1") -> pa.Table:
    scores = np.ones(users, np.float32)
    return lists_table(
        pa.array(range(users)), pa.array(range(users)), scores, np.ones(users, np.int64), generation
    )


def eventually(what: Callable[[], bool], seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError):
            if what():
                return
        assert time.monotonic() < until
        time.sleep(0.05)


# --- Cluster -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(start: Start) -> list[Server]:
    """Three primaries, and a replica of the first; the last test of the cluster breaks it."""
    config = {
        "cluster_enabled": "yes",
        "cluster_node_timeout": "1000",
        "cluster_replica_validity_factor": "0",
    }
    servers = [start(**config) for _ in range(4)]
    for number, server in enumerate(servers):
        with server.client() as client:
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < 3:
                first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            if number:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
    for server in servers:
        with server.client() as client:
            eventually(partial(knows_all, client))
    with servers[3].client() as client:
        eventually(lambda: bool(client.execute_command("CLUSTER", "REPLICATE", node_id(servers[0]))))
        eventually(lambda: client.info("replication")["master_link_status"] == "up")
    return servers


def knows_all(client: Any) -> bool:
    info = client.cluster("INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "4")


def node_id(server: Server) -> str:
    with server.client() as client:
        return str(client.cluster("MYID").decode())


def cluster_url(servers: list[Server]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])


def test_a_cluster_holds_every_row_where_its_slot_lives(cluster: list[Server]) -> None:
    with RedisLoader(cluster_url(cluster), "shop") as loader:
        assert loader.load("m_a", slot(), NOW).rows_accepted == USERS
        assert loader.count_generation("m_a", slot()["user_id"], "g1") == USERS
        loader.remove_view("m_a", pa.array(range(10)))
        assert sorted(loader.stored_ids("m_a").to_pylist()) == list(range(10, USERS))
    found: Any = RedisCluster(host="127.0.0.1", port=cluster[1].port)
    assert decode_value(found.hget(entity_key(4711, "shop"), field_hash("m_a", "item_ids"))) == [4711]
    found.close()


def test_whole_hashes_go_where_their_slot_lives(cluster: list[Server]) -> None:
    ids = pa.array(range(USERS, USERS + 300))
    keys, stamps = entity_keys({"user_id": ids}, "shop"), encode_timestamps(np.full(300, 1))
    with RedisLoader(cluster_url(cluster), "shop") as loader:
        assert loader.create("m_b", keys, {"n": encode_column(ids)}, stamps).tolist() == []
        assert loader.create("m_b", keys, {"n": encode_column(ids)}, stamps).tolist() == list(range(300))
        assert sorted(loader.stored_ids("m_b").to_pylist()) == ids.to_pylist()
        loader.remove_view("m_b", ids, ["n"])


def test_a_slot_on_the_move_and_moved(cluster: list[Server]) -> None:
    number = key_slot(entity_key(4711, "shop"))
    source, target = cluster[number * 3 // 16384], cluster[(number * 3 // 16384 + 1) % 3]
    table = slot().slice(4711, 1)
    with RedisLoader(cluster_url(cluster), "shop") as loader, source.client() as old, target.client() as new:
        loader.remove_view("m_a", slot()["user_id"])
        new.execute_command("CLUSTER", "SETSLOT", number, "IMPORTING", node_id(source))
        old.execute_command("CLUSTER", "SETSLOT", number, "MIGRATING", node_id(target))
        loader.load("m_a", table, NOW)
        assert old.execute_command("CLUSTER", "COUNTKEYSINSLOT", number) == 0
        assert new.execute_command("CLUSTER", "COUNTKEYSINSLOT", number) == 1
        assert loader.count_generation("m_a", table["user_id"], "g1") == 1
        for client in (new, old):
            client.execute_command("CLUSTER", "SETSLOT", number, "NODE", node_id(target))
        loader.load("m_a", slot(generation="g2"), NOW)
        assert loader.count_generation("m_a", slot()["user_id"], "g2") == USERS


def test_a_cluster_fails_over_while_rows_are_written_and_then_breaks(cluster: list[Server]) -> None:
    with RedisLoader(cluster_url(cluster[1:]), "shop", timeout=15) as loader:
        loader.load("m_a", slot(), NOW)
        timer = threading.Timer(0.05, cluster[0].kill)
        timer.start()
        for number in range(100):
            loader.load("m_a", slot(generation=f"g{number}"), NOW)
            if not timer.is_alive():
                break
        loader.load("m_a", slot(generation="last"), NOW)
        assert loader.count_generation("m_a", slot()["user_id"], "last") == USERS
    with RedisLoader(cluster_url(cluster[1:]), "shop", timeout=1) as loader:
        cluster[3].kill()
        began = time.monotonic()
        with pytest.raises(StoreError):
            loader.load("m_a", slot(), NOW)
        assert time.monotonic() - began < 15


# --- Sentinel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Server, Server]:
    """A primary, its replica, and a sentinel that watches them."""
    primary = start()
    replica = start(replicaof=f"127.0.0.1 {primary.port}")
    file = tmp_path_factory.mktemp("sentinel") / "sentinel.conf"
    file.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    )
    sentinel = start(str(file), "--sentinel")
    with sentinel.client() as client:
        eventually(lambda: len(client.sentinel_slaves("main")) == 1)
    with replica.client() as client:
        eventually(lambda: client.info("replication")["master_link_status"] == "up")
    return primary, replica, sentinel


def test_an_unknown_service_is_an_error(watched: tuple[Server, Server, Server]) -> None:
    with pytest.raises(StoreError, match="no primary that the sentinels know"):
        RedisLoader(f"redis+sentinel://127.0.0.1:{watched[2].port}/other", "shop", timeout=1)


def test_the_primary_is_asked_of_the_sentinels_and_followed(watched: tuple[Server, Server, Server]) -> None:
    primary, replica, sentinel = watched
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"
    with RedisLoader(url, "shop", timeout=15) as loader:
        loader.load("m_a", slot(), NOW)
        with primary.client() as client:
            assert client.dbsize() == USERS
        primary.kill()
        assert loader.load("m_a", slot(generation="g2"), NOW).rows_accepted == USERS
        assert loader.count_generation("m_a", slot()["user_id"], "g2") == USERS
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that vouches for itself, and a server's context with it."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


@pytest.fixture
def tls_proxy(store_url: str, certificate: tuple[Path, ssl.SSLContext]) -> Iterator[StoreProxy]:
    """Ends TLS in front of the store, whose binary has none."""
    with StoreProxy(int(store_url.rpartition(":")[2]), certificate[1]) as proxy:
        yield proxy


def test_tls_with_an_acl_user(
    tls_proxy: StoreProxy, client: Any, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    client.execute_command("ACL SETUSER", "loader", "on", ">s3cret", "~*", "+@all", "-@admin")
    url = f"rediss://loader:s3cret@127.0.0.1:{tls_proxy.port}?ssl_ca_certs={certificate[0]}"
    with RedisLoader(url, "shop") as loader:
        # More than any buffer on the way holds.
        vectors = pa.array([[1.0] * 1000] * USERS, pa.list_(pa.float32()))
        wide = slot().append_column("vector", vectors)
        assert loader.load("m_a", wide, NOW).rows_accepted == USERS
        assert loader.count_generation("m_a", slot()["user_id"], "g1") == USERS
    assert client.dbsize() == USERS


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_proxy: StoreProxy) -> None:
    with pytest.raises(StoreError, match="certificate that is not trusted"):
        RedisLoader(f"rediss://127.0.0.1:{tls_proxy.port}", "shop")


def test_no_tls_where_it_is_expected(store_url: str) -> None:
    with pytest.raises(StoreError):
        RedisLoader(store_url.replace("redis://", "rediss://"), "shop", timeout=1)
