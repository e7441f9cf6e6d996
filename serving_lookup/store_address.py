"""Where the store is, how to enter it, and whom to ask for the primary or for the nodes of a cluster."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit

from features.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SENTINEL, _CLUSTER = "+sentinel", "+cluster"
_SCHEMES: Final = {"unix", *(tls + way for tls in ("redis", "rediss") for way in ("", _SENTINEL, _CLUSTER))}
_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True)
class StoreAddress:
    """One server, the sentinels that know it, or nodes of a cluster; ``repr`` hides the password.

    Attributes:
        host, port, path: A server, or the path of its Unix socket.
        tls, verify: Whether to speak TLS, and to check the certificate.
        username, password, database: How to enter.
        sentinels: Whom to ask for the primary of ``service``; none: ``host`` it is.
        service: Its name there.
        sentinel_password: How to enter a sentinel.
        nodes: Some nodes of a cluster.
    """

    host: str
    port: int
    path: str
    tls: bool
    verify: bool
    username: str
    password: str
    database: int
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_password: str = ""
    nodes: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        """Address without credentials, fit for logs."""
        if self.path:
            return f"unix:{self.path}"
        if others := self.sentinels or self.nodes:
            hosts = ",".join(f"{host}:{port}" for host, port in others)
            return f"{self.service or 'the cluster'} of {hosts}"
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> StoreAddress:
        """Read ``redis://[user:password@]host:port[/db]``, ``rediss://…`` (TLS), ``unix://…path[?db=]``,
        ``redis+sentinel://[user:password@]host:port,host:port/service[?sentinel_password=]`` or
        ``redis+cluster://[user:password@]host:port,host:port``.

        ``?ssl_cert_reqs=none`` turns certificate checks off, as in redis-py.

        Raises:
            SettingsError: If it is none of these; the message does not repeat the URL, which may hold a password.
        """  # noqa: D205 - forms of a line each
        try:
            return cls._read(url)
        except ValueError as error:
            raise SettingsError(
                "store.url cannot be read",
                expected="redis://[user:password@]host:port[/db], rediss://…, unix://…, "
                "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port",
                got=str(error).split(" for ", maxsplit=1)[0],
            ) from error

    @classmethod
    def _read(cls, url: str) -> StoreAddress:
        scheme, _, rest = url.partition("://")
        if scheme not in _SCHEMES:
            raise ValueError(f"scheme {scheme!r}")
        several: tuple[tuple[str, int], ...] = ()
        of_sentinels = scheme.endswith(_SENTINEL)
        if of_sentinels or scheme.endswith(_CLUSTER):
            end = min(f"{rest}{mark}".index(mark) for mark in "/?")
            credentials, at_sign, hosts = rest[:end].rpartition("@")
            port = _SENTINEL_PORT if of_sentinels else _PORT
            places = [urlsplit(f"//{host}") for host in hosts.split(",")]
            several = tuple((place.hostname or "127.0.0.1", place.port or port) for place in places)
            rest = f"{credentials}{at_sign}{rest[end:]}"
        unix = scheme == "unix"
        parts = urlsplit(f"redis://{rest}")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path.strip("/")
        if of_sentinels and not path:
            raise ValueError("no service after the sentinels")
        database = query.get("db", "" if unix or several else path)
        return cls(
            host="" if unix else parts.hostname or "127.0.0.1",
            port=0 if unix else parts.port or _PORT,
            path=unquote(parts.path) if unix else "",
            tls=scheme.startswith("rediss"),
            verify=query.get("ssl_cert_reqs", "required") != "none",
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=int(database or 0),
            sentinels=several if of_sentinels else (),
            service=unquote(path) if of_sentinels else "",
            sentinel_password=query.get("sentinel_password", ""),
            nodes=() if of_sentinels else several,
        )

    def sentinel(self, host: str, port: int) -> StoreAddress:
        """One of the sentinels."""
        return replace(
            self, host=host, port=port, username="", password=self.sentinel_password, database=0, sentinels=()
        )

    def node(self, host: str, port: int) -> StoreAddress:
        """A server that sentinels or a cluster named."""
        return replace(self, host=host, port=port, sentinels=(), nodes=())


def tls_context(address: StoreAddress) -> ssl.SSLContext | None:
    """What TLS needs, if the address asks for it."""
    if not address.tls:
        return None
    context = ssl.create_default_context()
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def greetings(address: StoreAddress) -> Sequence[tuple[bytes, ...]]:
    """Commands that enter a server; the last one is answered only when that went well."""
    commands: list[tuple[bytes, ...]] = []
    if address.password:
        user = (address.username.encode(),) if address.username else ()
        commands.append((b"AUTH", *user, address.password.encode()))
    if address.database:
        commands.append((b"SELECT", b"%d" % address.database))
    return [*commands, (b"PING",)]
