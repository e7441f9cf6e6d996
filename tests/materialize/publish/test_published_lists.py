from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SchemaMismatchError
from materialize.publish.published_lists import lists_of_rows, lists_table
from tests.materialize.scored_rows import rows_of_lists


@st.composite
def lists(draw: st.DrawFn) -> pa.Table:
    users = draw(
        st.lists(st.integers(-9, 99), unique=True, max_size=8)
        | st.lists(st.text(max_size=3), unique=True, min_size=1, max_size=8)
    )
    counts = draw(st.lists(st.integers(1, 5), min_size=len(users), max_size=len(users)))
    items = [f"i{n}" for n in range(sum(counts))]
    scores = np.arange(len(items), dtype=np.float32)[::-1]
    user_ids = pa.array(users, pa.string() if users and isinstance(users[0], str) else pa.int64())
    return lists_table(user_ids, pa.array(items, pa.string()), scores, np.array(counts, np.int64), "g")


@given(lists())
def test_rows_and_lists_are_the_same(table: pa.Table) -> None:
    rows = rows_of_lists(table)
    assert rows.schema.names == ["user_id", "rank", "item_id", "score"]
    assert rows.schema.field("rank").type == pa.int32()
    assert rows.schema.field("score").type == pa.float32()
    expected = [
        {"user_id": row["user_id"], "rank": place + 1, "item_id": item, "score": score}
        for row in table.sort_by("user_id").to_pylist()
        for place, (item, score) in enumerate(zip(row["item_ids"], row["scores"], strict=True))
    ]
    assert rows.to_pylist() == expected
    assert lists_of_rows(rows, "g").to_pylist() == table.sort_by("user_id").to_pylist()


@given(lists(), st.data())
def test_slices_and_chunks_do_not_matter(table: pa.Table, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, table.num_rows))
    part = table.slice(begin)
    rows = rows_of_lists(pa.concat_tables([part.slice(0, 1), part.slice(1)]))
    assert lists_of_rows(rows, "g").to_pylist() == part.sort_by("user_id").to_pylist()


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="3 items"):
        lists_table(pa.array([1]), pa.array([1, 2]), np.zeros(3, np.float32), np.array([3]), "g")


def test_rows_that_do_not_begin_a_list_are_refused() -> None:
    rows = pa.table(
        {
            "user_id": [1],
            "rank": pa.array([2], pa.int32()),
            "item_id": [1],
            "score": pa.array([1.0], pa.float32()),
        }
    )
    with pytest.raises(SchemaMismatchError, match="rank 1"):
        lists_of_rows(rows, "g")
