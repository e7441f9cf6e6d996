"""Feast's own encoder and protobuf are the oracle; a few golden bytes pin the format beside them."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from features.errors import StoreError
from materialize.publish.feast_format import (
    ELEMENT_OF,
    Kind,
    Value,
    decode_timestamp,
    decode_value,
    encode_timestamp,
    encode_value,
    entity_key,
    field_hash,
    timestamp_field,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS: dict[Kind, st.SearchStrategy[Value]] = {
    Kind.BYTES: st.binary(max_size=300),
    Kind.STRING: st.text(max_size=300),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: INT64,
    Kind.DOUBLE: st.floats(allow_nan=False),
    Kind.FLOAT: st.floats(allow_nan=False, width=32),
    Kind.BOOL: st.booleans(),
    Kind.UNIX_TIMESTAMP: INT64,
}


@st.composite
def kinds_and_values(draw: st.DrawFn) -> tuple[Kind, Value]:
    kind = draw(st.sampled_from(Kind))
    if kind in ELEMENT_OF:
        values: Any = draw(st.lists(SCALARS[ELEMENT_OF[kind]], max_size=40))
        return kind, values
    return kind, draw(SCALARS[kind])


def proto_of(kind: Kind, value: Value) -> ValueProto:
    message = ValueProto()
    field = f"{kind.name.lower()}_val"
    if kind in ELEMENT_OF:
        getattr(message, field).SetInParent()
        getattr(message, field).val.extend(value)
    else:
        setattr(message, field, value)
    return message


@given(kinds_and_values())
def test_values_are_those_of_protobuf(kind_and_value: tuple[Kind, Value]) -> None:
    kind, value = kind_and_value
    raw = encode_value(value, kind)
    assert raw == proto_of(kind, value).SerializeToString()
    assert decode_value(raw) == value


@given(kinds_and_values(), st.integers(0, 10))
def test_a_limit_reads_the_beginning_of_a_list(kind_and_value: tuple[Kind, Value], limit: int) -> None:
    kind, value = kind_and_value
    expected = value[:limit] if isinstance(value, list) else value
    assert decode_value(encode_value(value, kind), limit) == expected


@given(st.one_of(INT64, st.text(max_size=300)), st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_entity_keys_are_those_of_feast(user_id: int | str, project: str, entity: str) -> None:
    value = ValueProto(int64_val=user_id) if isinstance(user_id, int) else ValueProto(string_val=user_id)
    proto = EntityKey(join_keys=[entity], entity_values=[value])
    assert entity_key(user_id, project, entity) == _redis_key(project, proto)


@given(st.text(max_size=30), st.text(max_size=30))
def test_field_names_are_those_of_feast(view: str, feature: str) -> None:
    assert field_hash(view, feature) == _mmh3(f"{view}:{feature}")
    assert timestamp_field(view) == f"_ts:{view}".encode()


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_timestamps_are_those_of_protobuf(moment: dt.datetime) -> None:
    proto = Timestamp()
    proto.FromDatetime(moment)
    micros = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    assert encode_timestamp(micros) == proto.SerializeToString()
    assert decode_timestamp(proto.SerializeToString()) == micros


@pytest.mark.parametrize(
    ("kind", "value", "golden"),
    [
        (Kind.INT64_LIST, [1, 300, -1], "720f0a0d01ac02ffffffffffffffffff01"),
        (Kind.FLOAT_LIST, [0.5, -2.0], "82010a0a080000003f000000c0"),
        (Kind.STRING_LIST, ["a", "ü"], "62070a01610a02c3bc"),
        (Kind.STRING, "20171204T000000Z", "12103230313731323034543030303030305a"),
        (Kind.INT64_LIST, [], "7200"),
        (Kind.BOOL, False, "3800"),
        (Kind.DOUBLE, 1.5, "29000000000000f83f"),
    ],
)
def test_golden_values(kind: Kind, value: Value, golden: str) -> None:
    assert encode_value(value, kind).hex() == golden


def test_golden_keys() -> None:
    head = "010000000200000007000000757365725f6964"
    assert entity_key(42, "shop").hex() == head + "04000000080000002a0000000000000073686f70"
    assert entity_key("u/1", "shop").hex() == head + "0200000003000000752f3173686f70"


def test_missing_values_are_empty() -> None:
    assert encode_value(None, Kind.INT64) == b""
    assert decode_value(b"") is None
    assert decode_value(None) is None


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused_or_read_never_worse(raw: bytes) -> None:
    try:
        decode_value(raw)
    except StoreError:
        return


@given(kinds_and_values(), st.data())
def test_truncated_values_are_refused(kind_and_value: tuple[Kind, Value], data: st.DataObject) -> None:
    raw = encode_value(kind_and_value[1], kind_and_value[0])
    cut = data.draw(st.integers(1, len(raw) - 1)) if len(raw) > 1 else 0
    if cut:
        with pytest.raises(StoreError):
            decode_value(raw[:cut])


@pytest.mark.parametrize(
    ("value", "kind"), [("a", Kind.INT64), (1, Kind.STRING), (1, Kind.INT64_LIST), (1.5, Kind.INT32)]
)
def test_a_value_of_another_kind_is_refused(value: Value, kind: Kind) -> None:
    with pytest.raises(StoreError, match=kind.name):
        encode_value(value, kind)


def test_an_id_beyond_64_bits_is_refused() -> None:
    with pytest.raises(StoreError, match="64 bits"):
        entity_key(2**63, "shop")


def test_the_module_is_light() -> None:
    code = (
        "import sys, materialize.publish.feast_format;"
        "print([m for m in ('feast', 'pandas', 'pyarrow', 'numba', 'redis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
