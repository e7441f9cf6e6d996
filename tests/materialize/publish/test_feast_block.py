"""Blocks are compared with Feast's own conversion of the same Arrow column, and with the one-value encoder."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import assume, example, given
from hypothesis import strategies as st

from features.errors import SchemaMismatchError
from materialize.publish.feast_block import (
    NULL_TIMESTAMP,
    Rows,
    encode_column,
    encode_timestamps,
    entity_keys,
    kind_of,
)
from materialize.publish.feast_format import Kind, decode_value, entity_key

if TYPE_CHECKING:
    from collections.abc import Sequence

INT64 = st.integers(-(2**63), 2**63 - 1)
# Naive, as an Arrow timestamp without a zone is.
MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))  # noqa: DTZ001
ARROW: list[tuple[pa.DataType, st.SearchStrategy[object]]] = [
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), INT64),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(max_size=200)),
    (pa.binary(), st.binary(max_size=200)),
    (pa.timestamp("s"), MOMENTS.map(lambda m: m.replace(microsecond=0))),
    (pa.timestamp("us", "UTC"), MOMENTS),
]
LISTS: list[tuple[pa.DataType, st.SearchStrategy[object]]] = [
    (pa.list_(arrow), st.lists(values, max_size=20)) for arrow, values in ARROW
]
NULLABLE = [a for a in ARROW if a[0] not in {pa.int32(), pa.int64()}]
"""Feast reads whole numbers with nulls as floats, which ours need not imitate."""


@st.composite
def columns(
    draw: st.DrawFn, types: Sequence[tuple[pa.DataType, st.SearchStrategy[object]]], nulls: bool
) -> pa.Array:
    arrow, values = draw(st.sampled_from(types))
    rows = draw(st.lists(st.none() | values if nulls else values, min_size=1, max_size=20))
    array = pa.array(rows, arrow)
    # Feast takes a column of nothing but empty bytes for one of nulls; which rows those are depends on its batches.
    assume(arrow != pa.binary() or any(rows))
    begin = draw(st.integers(0, max(i for i, row in enumerate(rows) if row or i == 0)))
    return array.slice(begin)


def feast_bytes(array: pa.Array) -> list[bytes]:
    kind = ValueType[kind_of(array.type).name]
    protos = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), kind)
    return [proto.SerializeToString() for proto in protos]


BEFORE_1970 = dt.datetime(1969, 12, 31, 23, 59, 58, 500_000, dt.UTC)


@example(pa.array([[BEFORE_1970, None]], pa.list_(pa.timestamp("us"))))
@example(pa.array([BEFORE_1970, None], pa.timestamp("us")))
@given(columns(ARROW + LISTS, nulls=False) | columns(NULLABLE + LISTS, nulls=True))
def test_columns_are_encoded_as_feast_does(array: pa.Array) -> None:
    rows = encode_column(array)
    assert [rows[i] for i in range(len(rows))] == feast_bytes(array)


@pytest.mark.parametrize(
    ("values", "arrow", "expected"),
    [
        ([2**62 + 1, None, 0], pa.int64(), [2**62 + 1, None, 0]),
        ([1, None], pa.int16(), [1, None]),
        ([True, None], pa.bool_(), [True, None]),
        (["a", None], pa.dictionary(pa.int32(), pa.string()), ["a", None]),
        ([[1, None], None, []], pa.list_(pa.int64()), [[1, 0], None, []]),
        ([["a", None]], pa.large_list(pa.large_string()), [["a", ""]]),
        ([[1.0, 2.0], None], pa.list_(pa.float32(), 2), [[1.0, 2.0], None]),
        ([None], pa.timestamp("us"), [NULL_TIMESTAMP]),
        ([None, None], pa.list_(pa.float64()), [None, None]),
    ],
)
def test_nulls_and_widths(values: list[object], arrow: pa.DataType, expected: list[object]) -> None:
    rows = encode_column(pa.array(values, arrow))
    assert [decode_value(rows[i]) for i in range(len(rows))] == expected


@given(st.lists(st.lists(st.text(max_size=10), max_size=4), min_size=2, max_size=10), st.data())
def test_a_slice_of_chunks_is_encoded_alone(lists: list[list[str]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(lists)))
    chunked = pa.chunked_array([lists[:cut], lists[cut:]], pa.list_(pa.string()))
    begin = data.draw(st.integers(0, len(lists) - 1))
    rows = encode_column(chunked.slice(begin))
    assert [decode_value(rows[i]) for i in range(len(rows))] == lists[begin:]


def test_null_lists_that_hide_values_are_empty() -> None:
    array = pa.ListArray.from_arrays(
        pa.array([0, 2, 4], pa.int32()), pa.array([1, 2, 3, 4]), mask=pa.array([True, False])
    )
    rows = encode_column(array)
    assert [decode_value(rows[i]) for i in range(2)] == [None, [3, 4]]


def test_an_empty_column_has_no_rows() -> None:
    for arrow in (pa.int64(), pa.string(), pa.float32(), pa.list_(pa.string()), pa.list_(pa.int64())):
        assert len(encode_column(pa.array([], arrow))) == 0
        assert len(encode_column(pa.chunked_array([], arrow))) == 0


@pytest.mark.parametrize(
    "arrow", [pa.uint64(), pa.date32(), pa.list_(pa.list_(pa.int64())), pa.struct([("a", pa.int64())])]
)
def test_types_without_a_place_in_the_store_are_refused(arrow: pa.DataType) -> None:
    with pytest.raises(SchemaMismatchError, match="online store"):
        encode_column(pa.array([], arrow))


def test_values_that_do_not_fit_the_declared_kind_are_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="INT32"):
        encode_column(pa.array([2**40]), Kind.INT32)


@given(st.lists(st.one_of(INT64), min_size=1) | st.lists(st.text(max_size=200), min_size=1))
def test_keys_of_one_id(ids: list[int] | list[str]) -> None:
    keys = entity_keys({"user_id": pa.array(ids)}, "shop")
    assert [keys[i] for i in range(len(keys))] == [entity_key(i, "shop") for i in ids]


def test_keys_of_several_ids_of_every_kind() -> None:
    ids = {
        "z": pa.array(["ä", "b"]),
        "a": pa.array([1, -2], pa.int32()),
        "m": pa.array([b"\x00", b""]),
        "t": pa.array([5, 6], pa.timestamp("s")),
    }
    kinds = {"z": Kind.STRING, "a": Kind.INT32, "m": Kind.BYTES, "t": Kind.UNIX_TIMESTAMP}
    keys = entity_keys(ids, "shop", kinds)
    protos = {
        name: python_values_to_proto_values(array.to_numpy(zero_copy_only=False), ValueType[kinds[name].name])
        for name, array in ids.items()
    }
    for row in range(2):
        proto = EntityKey(join_keys=list(ids), entity_values=[protos[name][row] for name in ids])
        assert keys[row] == _redis_key("shop", proto)


def test_an_entity_without_an_id_is_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="1 rows have no 'user_id'"):
        entity_keys({"user_id": pa.array([1, None])}, "shop")
    with pytest.raises(SchemaMismatchError, match="cannot be an id"):
        entity_keys({"user_id": pa.array([1.5])}, "shop")


@given(st.lists(st.datetimes(timezones=st.just(dt.UTC)), max_size=10))
def test_timestamps_are_those_of_protobuf(moments: list[dt.datetime]) -> None:
    micros = np.array(
        [(m - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) for m in moments],
        np.int64,
    )
    rows = encode_timestamps(micros)
    for row, moment in enumerate(moments):
        proto = Timestamp()
        proto.FromDatetime(moment)
        assert rows[row] == proto.SerializeToString()


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=12), st.data())
def test_rows_can_be_taken(values: list[bytes], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True).map(sorted))
    rows = Rows.of_binary(pa.array(values, pa.binary())).take(np.array(numbers, np.int64))
    assert [rows[i] for i in range(len(rows))] == [values[n] for n in numbers]


def test_rows_of_an_array_with_nulls_are_empty_there() -> None:
    rows = Rows.of_binary(pa.chunked_array([[b"a", None], [b"b"]]))
    assert [rows[i] for i in range(3)] == [b"a", b"", b"b"]
