"""Lists written compiled parse to what the general encoder writes; bytes of any other form are left to it."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from materialize.publish.feast_format import Kind, encode_value
from serving_lookup.answers import JSON, Answer, Item, encode
from serving_lookup.list_json import ListJson

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(2.0**-30, 2.0**30, width=32) | st.floats(-(2.0**30), -(2.0**-30), width=32) | st.just(0.0)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), max_size=20)


def answer(items: list[Item]) -> Answer:
    return Answer(items, "precomputed", 'g "1"', "model-é", "2026-01-01T00:00:00+00:00", 12.5)


def written(ids: bytes, scores: bytes, k: int) -> object:
    body = ListJson(answer([])).write(ids, scores, k, 12.5)
    return None if body is None else json.loads(body)


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


@given(FLOATS)
@example(5e-324)
@example(2.0**-126)
@example(3.4028234663852886e38)
def test_a_score_comes_back_to_the_bit_or_is_left_alone(score: float) -> None:
    score = float(np.float32(score))
    row = encode_value([1], Kind.INT64_LIST), encode_value([score], Kind.FLOAT_LIST)
    document = written(*row, 1)
    if document is not None:
        back = document["items"][0]["score"]  # type: ignore[index]
        assert back == score
        assert math.copysign(1, back) == math.copysign(1, score)
    else:
        assert score == 0 or not 2.0**-36 < abs(score) < 2.0**60


def test_what_needs_an_escape_or_is_no_number_is_left_to_the_general_writer() -> None:
    scores = encode_value([1.0], Kind.FLOAT_LIST)
    for text in ('say "hi"', "back\\slash", "new\nline", "\x00"):
        assert written(encode_value([text], Kind.STRING_LIST), scores, 1) is None
    for odd in (math.nan, math.inf, -math.inf):
        assert written(encode_value([1], Kind.INT64_LIST), encode_value([odd], Kind.FLOAT_LIST), 1) is None


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 12), st.data())
def test_damaged_rows_are_refused(ids: bytes, scores: bytes, k: int, data: st.DataObject) -> None:
    whole = encode_value([1, 300, -5], Kind.INT64_LIST), encode_value([3.0, 2.0, 1.0], Kind.FLOAT_LIST)
    cuts = [data.draw(st.integers(0, len(part) - 1)) for part in whole]
    for raw in ((ids, scores), (whole[0][: cuts[0]], whole[1]), (whole[0], whole[1][: cuts[1]])):
        assert written(*raw, k) is None
