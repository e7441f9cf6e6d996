"""Lists written compiled parse to what the general encoder writes; bytes of any other form are left to it."""

from __future__ import annotations

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from materialize.publish.feast_format import Kind, encode_value
from serving_lookup.answers import JSON, MESSAGE_PACK, Answer, Item, encode
from serving_lookup.written_list import WrittenList

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(2.0**-30, 2.0**30, width=32) | st.floats(-(2.0**30), -(2.0**-30), width=32) | st.just(0.0)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), max_size=20)


def answer(items: list[Item]) -> Answer:
    return Answer(items, "precomputed", 'g "1"', "model-é", "2026-01-01T00:00:00+00:00", 12.5)


def narrow(packed: bytes, score: float) -> bytes:
    """The general writer knows only doubles; a stored score is a float32."""
    return packed.replace(struct.pack(">Bd", 0xCB, score), struct.pack(">Bf", 0xCA, score))


def written(ids: bytes, scores: bytes, k: int) -> object:
    """What both forms say; they must agree unless one of them leaves the list to the general writer."""
    text = WrittenList(answer([]), JSON).write(ids, scores, k, 12.5)
    packed = WrittenList(answer([]), MESSAGE_PACK).write(ids, scores, k, 12.5)
    if text is not None and packed is not None:
        assert json.loads(text) == msgspec.msgpack.decode(packed)
    found = json.loads(text) if text is not None else None
    return found if packed is None or found is not None else msgspec.msgpack.decode(packed)


@given(st.lists(st.tuples(INTS, USUAL), min_size=1, max_size=60), st.data())
@example([(-(1 << 63), 0.10000000149011612), ((1 << 63) - 1, -0.0), (0, 2.0**24 + 2), (7, 2.0**-30)], None)
def test_whole_number_ids(pairs: list[tuple[int, float]], data: st.DataObject | None) -> None:
    k = data.draw(st.integers(1, len(pairs))) if data is not None else len(pairs)
    ids, scores = zip(*pairs, strict=True)
    raw = encode_value(list(ids), Kind.INT64_LIST), encode_value(list(scores), Kind.FLOAT_LIST)
    general = json.loads(encode(answer([Item(i, s) for i, s in pairs[:k]]), JSON))
    assert written(*raw, k) == general
    assert written(*raw, len(pairs) + 1) is None


@given(st.lists(st.tuples(TEXTS, USUAL), min_size=1, max_size=20))
def test_text_ids(pairs: list[tuple[str, float]]) -> None:
    ids, scores = zip(*pairs, strict=True)
    raw = encode_value(list(ids), Kind.STRING_LIST), encode_value(list(scores), Kind.FLOAT_LIST)
    assert written(*raw, len(pairs)) == json.loads(encode(answer([Item(i, s) for i, s in pairs]), JSON))


@given(FLOATS, st.sampled_from([JSON, MESSAGE_PACK]))
@example(5e-324, JSON)
@example(2.0**-126, JSON)
@example(2.0**-126, MESSAGE_PACK)
@example(3.4028234663852886e38, MESSAGE_PACK)
def test_a_score_comes_back_to_the_bit_or_is_left_alone(score: float, media_type: bytes) -> None:
    score = float(np.float32(score))
    row = encode_value([1], Kind.INT64_LIST), encode_value([score], Kind.FLOAT_LIST)
    body = WrittenList(answer([]), media_type).write(*row, 1, 12.5)
    if body is not None:
        document = json.loads(body) if media_type == JSON else msgspec.msgpack.decode(body)
        back = document["items"][0]["score"]
        assert back == score
        assert math.copysign(1, back) == math.copysign(1, score)
    else:
        assert media_type == JSON
        assert score != 0
        assert not 2.0**-36 < abs(score) < 2.0**60


@pytest.mark.parametrize("length", [31, 32, 255, 256, 1024])
@pytest.mark.parametrize("count", [1, 15, 16, 40])
def test_heads_of_longer_texts_and_lists(length: int, count: int) -> None:
    ids = [f"{n:02d}" + "x" * (length - 2) for n in range(count)]
    items = [Item(item, 1.5) for item in ids]
    row = encode_value(ids, Kind.STRING_LIST), encode_value([1.5] * count, Kind.FLOAT_LIST)
    packed = WrittenList(answer([]), MESSAGE_PACK).write(*row, count, 12.5)
    assert packed == narrow(encode(answer(items), MESSAGE_PACK), 1.5)


@given(INTS)
@example(127)
@example(128)
@example(-32)
@example(-33)
@example(-129)
@example(1 << 32)
def test_whole_numbers_are_packed_as_the_general_writer_does(number: int) -> None:
    row = encode_value([number], Kind.INT64_LIST), encode_value([0.1], Kind.FLOAT_LIST)
    packed = WrittenList(answer([]), MESSAGE_PACK).write(*row, 1, 12.5)
    score = float(np.float32(0.1))
    assert packed == narrow(encode(answer([Item(number, score)]), MESSAGE_PACK), score)


def test_what_needs_an_escape_or_is_no_number_is_left_to_the_general_writer() -> None:
    scores, text = encode_value([1.0], Kind.FLOAT_LIST), WrittenList(answer([]), JSON)
    for awkward in ('say "hi"', "back\\slash", "new\nline", "\x00"):
        assert text.write(encode_value([awkward], Kind.STRING_LIST), scores, 1, 0.0) is None
    for odd in (math.nan, math.inf, -math.inf):
        assert (
            text.write(encode_value([1], Kind.INT64_LIST), encode_value([odd], Kind.FLOAT_LIST), 1, 0.0)
            is None
        )


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 12), st.data())
def test_damaged_rows_are_refused(ids: bytes, scores: bytes, k: int, data: st.DataObject) -> None:
    whole = encode_value([1, 300, -5], Kind.INT64_LIST), encode_value([3.0, 2.0, 1.0], Kind.FLOAT_LIST)
    cuts = [data.draw(st.integers(0, len(part) - 1)) for part in whole]
    for raw in ((ids, scores), (whole[0][: cuts[0]], whole[1]), (whole[0], whole[1][: cuts[1]])):
        assert written(*raw, k) is None


def test_what_was_said_of_a_shorter_list_is_not_said_of_others() -> None:
    row = encode_value([1], Kind.INT64_LIST), encode_value([2.0], Kind.FLOAT_LIST)
    short = msgspec.structs.replace(answer([]), exhausted=True)
    for media_type in (JSON, MESSAGE_PACK):
        body = WrittenList(short, media_type).write(*row, 1, 12.5)
        assert body is not None
        assert b"exhausted" not in body
