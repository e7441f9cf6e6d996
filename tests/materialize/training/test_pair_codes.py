import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from materialize.training.pair_codes import PairCodes, contains, distinct, united, without

SPACE = PairCodes(pa.array(["u", "v", "ü"]), pa.array([7, 5]))


def test_codes_are_sorted_distinct_and_leave_unknown_ids_out() -> None:
    pairs = pa.table({"user_id": ["ü", "u", "u", "nobody", None, "v"], "item_id": [5, 7, 7, 7, 7, 9]})
    codes = SPACE.encode(pairs)
    assert codes.tolist() == [0, 5]
    assert SPACE.decode(codes).to_pydict() == {"user_id": ["u", "ü"], "item_id": [7, 5]}
    assert SPACE.per_user(codes).tolist() == [1, 0, 1]


CODES = st.lists(st.integers(0, 30)).map(lambda codes: np.array(codes, np.int64))


@given(CODES, CODES)
def test_codes_are_sets(one: np.ndarray, other: np.ndarray) -> None:
    known = distinct(one)
    assert known.tolist() == sorted(set(one.tolist()))
    assert contains(known, other).tolist() == [code in set(one.tolist()) for code in other.tolist()]
    assert without(other, known).tolist() == [
        code for code in other.tolist() if code not in set(one.tolist())
    ]
    assert united(one, other).tolist() == sorted({*one.tolist(), *other.tolist()})
