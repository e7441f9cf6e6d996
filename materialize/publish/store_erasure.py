"""Removes a user from the store: Feast's hash with all views, lists scored on demand, what was seen, the server's log.

Searching is done apart from removing: every key of the store is looked at, none is computed.
"""

from __future__ import annotations

import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import redis
from redis.cluster import RedisCluster

from materialize.publish.feast_format import Kind, entity_key
from materialize.publish.redis_connections import explained, open_store
from materialize.publish.serving_rules import seen_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.publish.redis_connections import Client
    from materialize.settings import StoreSettings

_PAGE = 5000
_REWRITE_SECONDS = 120.0


def erase_from_store(store: StoreSettings, project: str, user: int | str) -> int:
    """Delete every key of a user, and let servers that keep a log of commands write it anew.

    Returns:
        Keys deleted.

    Raises:
        StoreError: If the store refuses or cannot be reached.
    """
    url = store.url.get_secret_value()
    with explained(url), closing(open_store(url, store.timeout_seconds)) as client:
        deleted = cast("int", client.delete(entity_key(user, project)))
        deleted += cast("int", client.delete(seen_key(project, user)))
        ours = f"prescore:{project}:".encode()
        for key in client.scan_iter(match=ours + b"*", count=_PAGE):
            # prescore:<project>:<model>:fallback:<generation>:<user>; only the user's id may hold a colon.
            parts = key[len(ours) :].split(b":", 3)
            if len(parts) == 4 and parts[1] == b"fallback" and parts[3] == str(user).encode():
                deleted += cast("int", client.delete(key))
        for server in _servers(client):
            _rewrite_log(server)
    return deleted


def search_store(store: StoreSettings, project: str, user: int | str) -> tuple[int, int]:
    """Look at every key of the store; how many there are, and how many are of the user.

    Raises:
        StoreError: If the store cannot be reached.
    """
    raw = user.encode() if isinstance(user, str) else struct.pack("<q", user)
    kind = Kind.STRING if isinstance(user, str) else Kind.INT64
    entity = struct.pack("<II", kind, len(raw)) + raw + project.encode()
    named = f":{user}".encode()
    url = store.url.get_secret_value()
    searched = found = 0
    with explained(url), closing(open_store(url, store.timeout_seconds)) as client:
        for key in client.scan_iter(count=_PAGE):
            searched += 1
            found += key.endswith(entity) or (key.startswith(b"prescore:") and key.endswith(named))
    return searched, found


def _servers(client: Client) -> Iterator[redis.Redis]:
    if isinstance(client, RedisCluster):
        for node in client.get_primaries():  # type: ignore[no-untyped-call]
            yield client.get_redis_connection(node)
    else:
        yield client


def _rewrite_log(server: redis.Redis) -> None:
    """An append-only file still holds what was deleted, until it is written anew from the data."""
    try:
        if not _persistence(server).get("aof_enabled"):
            return
        server.execute_command("BGREWRITEAOF")  # type: ignore[no-untyped-call]
        give_up = time.monotonic() + _REWRITE_SECONDS
        while time.monotonic() < give_up:
            state = _persistence(server)
            if not (state.get("aof_rewrite_in_progress") or state.get("aof_rewrite_scheduled")):
                return
            time.sleep(0.05)
    except redis.ResponseError:
        return  # a managed server rewrites its log by itself, and lets nobody else


def _persistence(server: redis.Redis) -> dict[str, Any]:
    return cast("dict[str, Any]", server.info("persistence"))
