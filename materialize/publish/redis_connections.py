"""Connections to Redis or Valkey by URL: single server, Unix socket, TLS, Sentinel, Cluster; errors explained.

============================================== ==========================================================
``redis://[user:password@]host:port[/db]``      one server
``rediss://…``                                  the same over TLS; ``?ssl_ca_certs=file`` and the like
``unix://[user:password@]/path?db=0``           a Unix socket
``redis+sentinel://[user:password@]h:p,h:p/s``  the primary of service ``s``, asked of the sentinels
``redis+cluster://[user:password@]h:p,h:p``     a cluster, from any of its nodes
============================================== ==========================================================

The last two take ``rediss+…`` for TLS, and the options of redis-py after ``?``.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from features.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

Client = redis.Redis | RedisCluster

DEFAULT_PORT = {"sentinel": 26379, "cluster": 6379}


def open_store(url: str, timeout: float = 10.0) -> Client:
    """A client of the store; it connects at the first command.

    Args:
        url: As in the module's table.
        timeout: Longest wait for a connection and for one reply, in seconds.

    Raises:
        SettingsError: If the URL cannot be understood.
        StoreError: If a cluster or the sentinels cannot be reached.
    """
    limits: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 1),
    }
    scheme, _, rest = url.partition("://")
    with explained(url):
        try:
            if scheme in {"redis+sentinel", "rediss+sentinel"}:
                return _sentinel(scheme.split("+")[0], rest, limits)
            if scheme in {"redis+cluster", "rediss+cluster"}:
                return _cluster(scheme.split("+")[0], rest, limits)
            return redis.Redis.from_url(url, **limits)
        except ValueError as error:
            raise SettingsError(
                f"the store's URL {redacted(url)!r} cannot be understood",
                expected="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
                got=str(error),
            ) from error


def redacted(url: str) -> str:
    """The URL without its credentials, for messages."""
    return re.sub(r"(password=)[^&]*", r"\1…", re.sub(r"://[^/]*@", "://…@", url))


def _sentinel(scheme: str, rest: str, limits: dict[str, Any]) -> redis.Redis:
    nodes, service, options = _several(scheme, rest, DEFAULT_PORT["sentinel"])
    if not service:
        raise ValueError("no service name after the sentinels' addresses")
    asking = {**limits, "password": options.pop("sentinel_password", None)}
    if scheme == "rediss":
        asking |= {"ssl": True} | {k: v for k, v in options.items() if k.startswith("ssl_")}
        options["ssl"] = True
    sentinel = Sentinel(nodes, sentinel_kwargs=asking, **limits, **options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(service)  # type: ignore[no-untyped-call]
    return client


def _cluster(scheme: str, rest: str, limits: dict[str, Any]) -> RedisCluster:
    nodes, _, options = _several(scheme, rest, DEFAULT_PORT["cluster"])
    if scheme == "rediss":
        options["ssl"] = True
    start = [ClusterNode(host, port) for host, port in nodes]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=start, **limits, **options)


def _several(scheme: str, rest: str, port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Addresses, path and options; redis-py parses the options as of one server."""
    authority, _, tail = rest.partition("/")
    if "?" in authority:
        authority, _, query = authority.partition("?")
        tail = f"?{query}"
    credentials, _, hosts = authority.rpartition("@")
    nodes = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname:
            raise ValueError(f"no host in {host!r}")
        nodes.append((parts.hostname, parts.port or port))
    service, _, query = tail.partition("?")
    one = f"{scheme}://{credentials}@host?{query}" if credentials else f"{scheme}://host?{query}"
    options: dict[str, Any] = dict(parse_url(one))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "db", "connection_class"):
        options.pop(name, None)
    return nodes, unquote(service), options


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what redis-py raises inside into a :class:`StoreError` that says the cause and names the store."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise store_error(error, url) from error


_CAUSES: tuple[tuple[str, str, str], ...] = (
    # What the server says, with its code or as redis-py passes it on without; what that means; what to do.
    ("OOM", "is out of memory", "raise maxmemory, or publish fewer users or a smaller k"),
    (
        "READONLY",
        "is a read-only replica",
        "give the primary's address, or use redis+sentinel:// to follow it",
    ),
    (
        "read only replica",
        "is a read-only replica",
        "give the primary's address, or use redis+sentinel:// to follow it",
    ),
    (
        "without any password configured",
        "has no password, but one was given",
        "take the password out of [store] url",
    ),
    ("Authentication required", "wants a password", "put user and password into [store] url"),
    ("NOAUTH", "wants a password", "put user and password into [store] url"),
    ("WRONGPASS", "refused user or password", "check user and password in [store] url"),
    ("invalid username-password", "refused user or password", "check user and password in [store] url"),
    ("invalid password", "refused user or password", "check user and password in [store] url"),
    (
        "NOPERM",
        "forbids a command to this user",
        "allow hset, hdel, hget, hmget, scan, get, set, eval on its keys",
    ),
    (
        "no permissions",
        "forbids a command to this user",
        "allow hset, hdel, hget, hmget, scan, get, set, eval on its keys",
    ),
    ("MISCONF", "cannot save to its disk and stops writes", "free its disk, or turn its snapshots off"),
    ("CLUSTERDOWN", "is a cluster that is down", "bring its missing primaries back"),
    ("LOADING", "is still loading its data", "wait until it has started"),
    (
        "No master found",
        "has no primary that the sentinels know",
        "check the service's name and the sentinels",
    ),
    ("refused", "refused the connection", "start it, or correct [store] url"),
    ("Name or service not known", "has an unknown host name", "correct [store] url"),
    ("CERTIFICATE", "has a certificate that is not trusted", "add ?ssl_ca_certs=FILE to [store] url"),
    ("timed out", "does not answer", "check the network and the server's load"),
    ("Timeout", "does not answer", "check the network and the server's load"),
)


def store_error(error: BaseException, url: str) -> StoreError:
    """The explanation of an error of redis-py, of a socket, or of an error reply."""
    return refusal(str(error) or type(error).__name__, url)


def refusal(text: str, url: str) -> StoreError:
    """The explanation of an error reply's text."""
    for sign, meaning, fix in _CAUSES:
        if sign.lower() in text.lower():
            return StoreError(f"the store at {redacted(url)} {meaning}", got=text, fix=fix)
    return StoreError(f"the store at {redacted(url)} failed", got=text)
