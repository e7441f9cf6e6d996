"""Which server a key belongs to, and the raw connections to it, for every kind of store.

Connections are redis-py's own, so that addresses, TLS, users, Sentinel and cluster discovery are its
business; only the socket is taken out of them, once they have introduced themselves.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import redis
from redis.cluster import RedisCluster
from redis.sentinel import SentinelConnectionPool

from features.errors import StoreError
from materialize.publish.feast_format import Kind, entity_key_prefix
from materialize.publish.redis_connections import explained, open_store, redacted
from materialize.publish.resp_commands import hash_slots

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from redis.connection import Connection, ConnectionPool

    from materialize.publish.feast_block import Rows

LISTPACK_BYTES = 4096
"""Longest value that stays in a hash's compact form; the server's default of 64 costs half as much again."""

_SCAN_COUNT = 5000


@dataclass(frozen=True)
class Group:
    """Rows (int64[n], numbers in the caller's table) that go to one server, and its connections."""

    name: str
    rows: NDArray[np.int64]
    sockets: list[socket.socket]


class Routes:
    """Connections to the primaries of one store.

    Attributes:
        url: Of the store, credentials included.
        name: The same without them.
        cluster: Whether keys are spread by slot.
        follows: Whether another primary may take over.
    """

    def __init__(self, url: str, connections: int, timeout: float) -> None:
        self.url, self.name = url, redacted(url)
        self._count, self._timeout = connections, timeout
        self._open: dict[str, list[Connection]] = {}
        self._client = open_store(url, timeout)
        self.cluster = isinstance(self._client, RedisCluster)
        self.follows = self.cluster or isinstance(self._pool_of(None), SentinelConnectionPool)
        try:
            with explained(url):
                for node in self._nodes():
                    self._sockets(node)
                self._allow_long_listpacks()
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close everything."""
        self.drop()
        self._client.close()

    def drop(self) -> None:
        """Close the raw connections; the next group opens new ones."""
        for connections in self._open.values():
            for connection in connections:
                connection.disconnect()  # type: ignore[no-untyped-call]
        self._open.clear()

    def refresh(self) -> None:
        """Find out anew who serves what; a store that cannot say it now is asked again at the next chance."""
        self.drop()
        if isinstance(self._client, RedisCluster):
            try:
                self._client.nodes_manager.initialize()
            except (redis.RedisError, OSError):
                return

    def group(self, rows: NDArray[np.int64], keys: Rows | None) -> list[Group]:
        """Rows by server.

        Args:
            rows: int64[m], numbers of rows.
            keys: Of all rows of the table; a cluster needs them.

        Raises:
            redis.RedisError: If a server cannot be reached.
        """
        if not isinstance(self._client, RedisCluster) or keys is None:
            return [Group(self.name, rows, self._sockets(None))]
        slots = hash_slots(keys)[rows]
        owners: dict[str, int] = {}
        owner_of_slot = np.full(16384, -1, np.int64)
        for slot, nodes in self._client.nodes_manager.slots_cache.items():
            owner_of_slot[slot] = owners.setdefault(nodes[0].name, len(owners))
        owner = owner_of_slot[slots]
        if (owner < 0).any():
            raise redis.ConnectionError("CLUSTERDOWN no node serves some slots")
        return [
            Group(name, rows[owner == number], self._sockets(name))
            for name, number in owners.items()
            if (owner == number).any()
        ]

    def redirected(self, address: str) -> socket.socket:
        """A connection to the ``host:port`` that an ASK reply names."""
        host, _, port = address.rpartition(":")
        key = f"ask {address}"
        if key not in self._open:
            pool = self._pool_of(next(iter(self._nodes())))
            connection = pool.connection_class(**{**pool.connection_kwargs, "host": host, "port": int(port)})
            connection.connect()
            self._open[key] = [connection]
        return _socket(self._open[key][0])

    def _allow_long_listpacks(self) -> None:
        """Ask every server to keep hashes with long values compact; one that forbids it is left as it is."""
        for node in self._nodes():
            client = self._client_of(node)
            try:
                name = "hash-max-listpack-value"
                present = cast("dict[str, Any]", client.config_get(name)).get(name)
                if present is not None and int(present) < LISTPACK_BYTES:
                    client.config_set(name, LISTPACK_BYTES)
            except redis.ResponseError:
                continue

    def scan_ids(self, project: str, entity: str) -> Iterator[pa.Array]:
        """Ids of all entities of one join key, page by page: int64 or string arrays, possibly with repeats."""
        prefix, suffix = entity_key_prefix(entity), project.encode()
        pattern = re.sub(rb"([\\*?\[\]^])", rb"\\\1", prefix) + b"*"
        for node in self._nodes():
            with explained(self.url):
                cursor = 0
                while True:
                    reply = self._client_of(node).scan(cursor, match=pattern, count=_SCAN_COUNT)
                    cursor, keys = cast("tuple[int, list[bytes]]", reply)
                    for kind in (Kind.INT64, Kind.STRING):
                        ids = [i for key in keys if (i := _id_of(key, prefix, suffix, kind)) is not None]
                        if ids:
                            yield pa.array(ids, pa.int64() if kind == Kind.INT64 else pa.string())
                    if not cursor:
                        break

    def _nodes(self) -> list[str | None]:
        if isinstance(self._client, RedisCluster):
            return [node.name for node in self._client.get_primaries()]  # type: ignore[no-untyped-call]
        return [None]

    def _client_of(self, node: str | None) -> redis.Redis:
        if isinstance(self._client, RedisCluster):
            found = self._client.get_node(node_name=node)  # type: ignore[no-untyped-call]
            return self._client.get_redis_connection(found)
        return self._client

    def _pool_of(self, node: str | None) -> ConnectionPool:
        return self._client_of(node).connection_pool

    def _sockets(self, node: str | None) -> list[socket.socket]:
        key = node or ""
        if key not in self._open:
            pool = self._pool_of(node)
            self._open[key] = []
            for _ in range(self._count):
                connection = cast("Connection", pool.make_connection())
                connection.connect()  # type: ignore[no-untyped-call]
                self._open[key].append(connection)
        return [_socket(connection) for connection in self._open[key]]


def _socket(connection: Connection) -> socket.socket:
    # redis-py has no public way to stream through a connection that it has set up.
    raw = cast("socket.socket | None", connection._sock)  # noqa: SLF001
    if raw is None:
        raise StoreError("a connection to the store closed before it was used")
    return raw


def _id_of(key: bytes, prefix: bytes, suffix: bytes, kind: Kind) -> int | str | None:
    """The id in an entity key, if the key is of this project and the id of this kind."""
    head = len(prefix) + 8
    if len(key) < head:
        return None
    found, length = struct.unpack_from("<II", key, len(prefix))
    if key[head + length :] != suffix or found != kind:
        return None
    raw = key[head : head + length]
    return raw.decode() if kind == Kind.STRING else int(struct.unpack("<q", raw)[0])
