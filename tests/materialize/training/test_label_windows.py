from datetime import UTC, datetime, timedelta
from itertools import pairwise

import ibis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SourceError
from materialize.training.label_windows import LabelWindow, pairs_in_window, plan_windows

CUTOFF = datetime(2018, 1, 1, tzinfo=UTC)


def test_windows_touch_and_end_at_the_cutoff() -> None:
    plan = plan_windows(CUTOFF, datetime(2017, 1, 1, tzinfo=UTC), days=28, count=2)
    assert plan.evaluation == LabelWindow(datetime(2017, 12, 4, tzinfo=UTC), CUTOFF)
    assert [window.start for window in plan.training] == [
        datetime(2017, m, d, tzinfo=UTC) for m, d in ((10, 9), (11, 6))
    ]
    assert [window.days for window in plan.training] == [28, 28]


@given(span=st.floats(3, 2000), days=st.integers(1, 400), count=st.integers(1, 12))
def test_there_is_always_history_before_the_first_window(span: float, days: int, count: int) -> None:
    first = CUTOFF - timedelta(days=span)
    plan = plan_windows(CUTOFF, first, days=days, count=count)
    windows = [*plan.training, plan.evaluation]
    assert 1 <= len(plan.training) <= count
    assert all(1 <= window.days <= days for window in windows)
    assert all(a.end == b.start for a, b in pairwise(windows))
    assert windows[-1].end == CUTOFF
    assert windows[0].start - first >= timedelta(days=windows[0].days)


def test_too_little_history_is_reported() -> None:
    with pytest.raises(SourceError, match="at least three days"):
        plan_windows(CUTOFF, CUTOFF - timedelta(days=2), days=28, count=2)


def test_pairs_are_read_from_the_window_alone() -> None:
    start, end = datetime(2017, 12, 4, tzinfo=UTC), CUTOFF
    second = timedelta(seconds=1)
    rows = [
        (1, "a", start - second),
        (1, "b", start),
        (1, "b", end - second),
        (1, "c", end),
        (2, "a", start),
        (2, "x", start),
        (3, "a", start - second),
    ]
    users, items, times = zip(*rows, strict=True)
    connection = ibis.duckdb.connect()
    table = {
        "user_id": list(users),
        "item_id": list(items),
        "event_time": pa.array(times, pa.timestamp("us", "UTC")),
    }
    events = connection.create_table("events", pa.table(table))
    candidates = pa.table({"item_id": ["a", "b", "c"]})

    inside = pairs_in_window(events, LabelWindow(start, end), candidates)
    assert inside.to_pylist() == [{"user_id": 1, "item_id": "b"}, {"user_id": 2, "item_id": "a"}]
    connection.disconnect()
