"""Commands are parsed back by hiredis; slots are compared with redis-py's."""

from __future__ import annotations

import hiredis
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from materialize.publish.feast_block import Rows, encode_column
from materialize.publish.feast_format import Kind, encode_value, field_hash, timestamp_field
from materialize.publish.resp_commands import commands, hash_slots, hset_commands

BLOBS = st.lists(st.binary(max_size=2000), min_size=1, max_size=20)


def parsed(raw: bytes) -> list[object]:
    reader = hiredis.Reader()
    reader.feed(raw)
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    return found


@given(BLOBS, st.binary(max_size=20))
def test_commands_are_resp(values: list[bytes], constant: bytes) -> None:
    rows = Rows.of_binary(pa.array(values, pa.binary()))
    made = commands(b"X", [constant, rows, constant, rows, constant])
    expected = [[b"X", constant, v, constant, v, constant] for v in values]
    assert parsed(made.data.tobytes()) == expected
    assert [parsed(made[i]) for i in range(len(made))] == [[e] for e in expected]


def test_a_row_is_written_by_one_command() -> None:
    keys = Rows.of_binary(pa.array([b"k1", b"k2"]))
    made = hset_commands("v", keys, {"f": encode_column(pa.array([1, 2]))}, b"T")
    assert parsed(made.data.tobytes()) == [
        [b"HSET", key, timestamp_field("v"), b"T", field_hash("v", "f"), encode_value(number, Kind.INT64)]
        for key, number in ((b"k1", 1), (b"k2", 2))
    ]


@given(
    st.lists(
        st.binary(min_size=1, max_size=30)
        | st.lists(st.sampled_from([b"{", b"}", b"a", b"\xff"]), min_size=1, max_size=9).map(b"".join),
        min_size=1,
        max_size=20,
    )
)
def test_slots_are_those_of_the_cluster_specification(keys: list[bytes]) -> None:
    slots = hash_slots(Rows.of_binary(pa.array(keys, pa.binary())))
    assert slots.dtype == np.int32
    assert slots.tolist() == [key_slot(key) for key in keys]
