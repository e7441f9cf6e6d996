import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from materialize.training.pair_codes import PairCodes, contains

SPACE = PairCodes(pa.array(["u", "v", "ü"]), pa.array([7, 5]))


def test_codes_are_sorted_distinct_and_leave_unknown_ids_out() -> None:
    pairs = pa.table({"user_id": ["ü", "u", "u", "nobody", None, "v"], "item_id": [5, 7, 7, 7, 7, 9]})
    codes = SPACE.encode(pairs)
    assert codes.tolist() == [0, 5]
    assert SPACE.decode(codes).to_pydict() == {"user_id": ["u", "ü"], "item_id": [7, 5]}
    assert SPACE.per_user(codes).tolist() == [1, 0, 1]


@given(st.lists(st.integers(0, 30)), st.lists(st.integers(0, 30)))
def test_contains_is_membership(known: list[int], asked: list[int]) -> None:
    found = contains(np.unique(np.array(known, np.int64)), np.array(asked, np.int64))
    assert found.tolist() == [code in known for code in asked]
