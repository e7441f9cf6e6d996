"""The fast reading of a row agrees with the plain one on everything, the malformed included."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.errors import StoreError
from materialize.publish.feast_format import Kind, decode_value, encode_value
from serving_lookup.prediction_row import read_ids, read_scores

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
LIMITS = st.integers(1, 1000)


@given(st.lists(INT64 | st.integers(0, 200), max_size=300), LIMITS)
def test_whole_number_ids(ids: list[int], limit: int) -> None:
    assert read_ids(encode_value(ids, Kind.INT64_LIST), limit) == ids[:limit]


@given(st.lists(st.text(max_size=9), max_size=40), LIMITS)
def test_text_ids(ids: list[str], limit: int) -> None:
    assert read_ids(encode_value(ids, Kind.STRING_LIST), limit) == ids[:limit]


@given(st.lists(FLOAT32, max_size=80) | st.lists(st.just(0.5), min_size=900, max_size=5000), LIMITS)
@example([0.5] * 31, 9)
@example([0.5] * 32, 9)
@example([0.5] * 4095, 9)
@example([0.5] * 4096, 9)
def test_scores(scores: list[float], limit: int) -> None:
    assert list(read_scores(encode_value(scores, Kind.FLOAT_LIST), limit)) == scores[:limit]


@given(st.binary(min_size=1, max_size=30) | st.binary(max_size=8).map(lambda raw: b"\x72" + raw))
def test_malformed_rows_are_refused_by_both(raw: bytes) -> None:
    for read in (read_ids, read_scores):
        try:
            expected = decode_value(raw, 5)
        except StoreError:
            expected = None
        if isinstance(expected, list):
            assert (
                struct.pack(f"{len(expected)}d", *map(float, read(raw, 5)))
                == struct.pack(f"{len(expected)}d", *map(float, expected))
                if not any(isinstance(v, str | bytes) for v in expected)
                else list(read(raw, 5)) == expected
            )
        else:
            with pytest.raises(StoreError):
                read(raw, 5)
