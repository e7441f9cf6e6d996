"""A batch written from rows says what the general encoder says of the same answers; who cannot be written is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hiredis
import msgspec
import numpy as np
import pytest

from features.errors import StoreError
from materialize.publish.feast_format import Kind, encode_value
from serving_lookup.answers import JSON, MESSAGE_PACK, Answer, BatchAnswer, Item, UserAnswer, encode
from serving_lookup.problems import FAILURE
from serving_lookup.written_answers import WrittenAnswer
from serving_lookup.written_batch import WrittenBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

AGE = 12.5
SCORES = np.linspace(3, -3, 50, dtype=np.float32).tolist()


def answer(generation: str, items: list[Item]) -> Answer:
    return Answer(items, "precomputed", generation, "model", "2026-01-01T00:00:00+00:00", AGE)


def read(document: bytes, media_type: bytes) -> object:
    decode = msgspec.json.decode if media_type == JSON else msgspec.msgpack.decode
    return decode(document)


def row(generation: str, ids: Sequence[int | str]) -> list[bytes | None]:
    kind = Kind.STRING_LIST if isinstance(ids[0], str) else Kind.INT64_LIST
    scores = encode_value(SCORES[: len(ids)], Kind.FLOAT_LIST)
    return [
        encode_value(list(ids), kind),  # type: ignore[arg-type]  # of one kind
        scores,
        encode_value(generation, Kind.STRING),
    ]


def origin(media_type: bytes, raw: bytes) -> WrittenAnswer | None:
    """Rows of two generations are served, as after a delta."""
    names = {encode_value(name, Kind.STRING): name for name in ("g1", "g2")}
    if raw not in names:
        return None
    return WrittenAnswer(answer(names[raw], []), media_type, b"no-cache", b"")


@pytest.mark.parametrize("media_type", [JSON, MESSAGE_PACK])
@pytest.mark.parametrize("odd_first", [True, False])
def test_each_user_in_turn(media_type: bytes, odd_first: bool) -> None:
    k = 3
    ids = [[10 * u + n for n in range(4)] for u in range(8)]
    good = [row("g2" if u % 3 == 0 else "g1", ids[u]) for u in range(8)]
    odd = [row("g3", [1, 2, 3]), row("g1", [1, 2]), [None] * 3, [None, None, good[0][2]], None, StoreError("x"),
           hiredis.ReplyError("x"), row("g1", ['needs "escape"', "b", "c"])]  # fmt: skip
    pairs = [
        (a, b)
        for good_row, odd_row in zip(good, odd, strict=True)
        for a, b in ((good_row, True), (odd_row, False))
    ]
    if odd_first:
        pairs = pairs[1:]
    users = [f"user {n} é" if n % 2 else n - 5 for n in range(len(pairs))]
    batch = WrittenBatch(media_type, users)
    left = batch.write([one for one, _ in pairs], k, AGE, lambda raw: origin(media_type, raw))
    escape = media_type == JSON
    assert left == [n for n, (one, fine) in enumerate(pairs) if not fine and (escape or one is not odd[-1])]
    expected = []
    for n, (user, (one, fine)) in enumerate(zip(users, pairs, strict=True)):
        if n in left:
            expected.append(UserAnswer(user, problem=FAILURE.document))
            batch.fill(n, expected[-1])
        elif fine:
            number = next(u for u in range(8) if good[u] is one)
            items = [Item(i, s) for i, s in zip(ids[number][:k], SCORES, strict=False)]
            expected.append(UserAnswer(user, answer("g2" if number % 3 == 0 else "g1", items)))
        else:
            items = [Item(i, s) for i, s in zip(['needs "escape"', "b", "c"], SCORES, strict=False)]
            expected.append(UserAnswer(user, answer("g1", items)))
    assert read(batch.document(), media_type) == read(encode(BatchAnswer(expected), media_type), media_type)


@pytest.mark.parametrize("media_type", [JSON, MESSAGE_PACK])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 900])
def test_few_and_more_than_there_is_room_for_at_once(media_type: bytes, count: int) -> None:
    ids = [f"{n:02d}" + "x" * 60 for n in range(50)]
    batch = WrittenBatch(media_type, list(range(count)))
    rows = [row("g1", ids)] * count
    assert batch.write(rows, 50, AGE, lambda raw: origin(media_type, raw)) == []
    one = answer("g1", [Item(i, s) for i, s in zip(ids, SCORES, strict=True)])
    expected = encode(BatchAnswer([UserAnswer(user, one) for user in range(count)]), media_type)
    assert read(batch.document(), media_type) == read(expected, media_type)
