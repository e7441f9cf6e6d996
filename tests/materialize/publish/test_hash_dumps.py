"""A hash that the server restores from our bytes is the hash that it makes from HSET, whatever the lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from materialize.publish.feast_block import Rows
from materialize.publish.hash_dumps import fits_dump, restore_commands
from materialize.publish.redis_loader import RedisLoader
from materialize.publish.resp_commands import hset_commands

# Where heads and lengths of entries change their size, and numbers, which the server would store as such.
LENGTHS = [0, 1, 62, 63, 64, 124, 125, 126, 127, 128, 4094, 4095]


def rows(values: list[bytes]) -> Rows:
    return Rows.of_binary(pa.array(values, pa.binary()))


KEYS = rows([b"user %d" % n for n in range(len(LENGTHS))])
STAMPS = rows([b"T"] * len(LENGTHS))
COLUMNS = {
    "bytes": rows([(bytes(range(256)) * 16)[:n] for n in LENGTHS]),
    "digits": rows([b"%d" % (7**n) for n in range(len(LENGTHS))]),
    "other": rows([b"x" * n for n in reversed(LENGTHS)]),
}


@pytest.mark.parametrize("view", ["v", "v" * 59, "v" * 60, "v" * 200])
@pytest.mark.parametrize("features", [3, 200, 600])
def test_restored_hashes_equal_set_ones(client: Any, view: str, features: int) -> None:
    columns = {f"{name}_{n}": values for n in range(features // 3) for name, values in COLUMNS.items()}
    found = []
    for commands in (hset_commands, restore_commands):
        client.flushall()
        connection = client.connection_pool.get_connection()
        connection.send_packed_command([commands(view, KEYS, columns, STAMPS).data.tobytes()])
        assert [connection.read_response() for _ in range(len(KEYS))]
        client.connection_pool.release(connection)
        found.append({key: client.hgetall(key) for key in client.scan_iter()})
    assert found[0] == found[1]
    assert len(found[1]) == len(KEYS)


def test_only_what_is_not_there_is_created(client: Any, store_url: str) -> None:
    client.hset(KEYS[3], "of another view", "stays")
    client.set(KEYS[5], "no hash at all")
    long = {**COLUMNS, "long": rows([b"x" * (4096 if n == 2 else 4095) for n in range(len(LENGTHS))])}
    assert np.flatnonzero(~fits_dump(long)).tolist() == [2]
    with RedisLoader(store_url, "shop") as loader:
        assert loader.create("v", KEYS, long, STAMPS).tolist() == [2, 3, 5]
        assert loader.create("v", KEYS, long, STAMPS).tolist() == list(range(len(LENGTHS)))
    assert client.hgetall(KEYS[3]) == {b"of another view": b"stays"}
    assert client.get(KEYS[5]) == b"no hash at all"
    assert client.hget(KEYS[0], "_ts:v") == b"T"


def test_a_user_who_may_not_restore_is_left_to_other_ways(client: Any, store_url: str) -> None:
    client.acl_setuser(
        "loader", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-restore"]
    )
    address = store_url.replace("redis://", "redis://loader:secret@")
    with RedisLoader(address, "shop") as loader:
        assert len(loader.create("v", KEYS, COLUMNS, STAMPS)) == len(LENGTHS)
        assert loader.write("v", KEYS, COLUMNS, STAMPS).rows_accepted == len(LENGTHS)
