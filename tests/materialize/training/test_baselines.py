from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pyarrow as pa
import pytest

from materialize.training.baselines import rank, simple_baselines
from materialize.training.history import History

INSTANT = datetime(2024, 1, 1, tzinfo=UTC)
ITEMS = pa.array(["a", "b", "c"])
NOTHING = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def history() -> History:
    """User 1 likes b of late and a long ago; user 2 likes c; user 3 is not evaluated; user 9 is new."""
    rows = [
        (1, "a", 180),
        (1, "a", 180),
        (1, "b", 90),
        (1, "b", 0.5),
        (2, "c", 40),
        (3, "a", 10),
        (3, "z", 1),
    ]
    rows += [(3, "a", -1)]
    users, items, ages = zip(*rows, strict=True)
    times = pa.array([INSTANT - timedelta(days=age) for age in ages], pa.timestamp("us", "UTC"))
    connection = ibis.duckdb.connect()
    events = connection.create_table(
        "events", pa.table({"user_id": users, "item_id": items, "event_time": times})
    )
    read = History.read(events, INSTANT, pa.array([9, 2, 1]), ITEMS)
    connection.disconnect()
    return read


def test_history_counts_events_before_the_instant(history: History) -> None:
    assert history.popularity.tolist() == [3, 2, 1]
    assert history.recent.tolist() == [1, 1, 0]
    assert history.events_per_user().tolist() == [0, 1, 4]
    decayed = history.decayed[history.rows].toarray()
    np.testing.assert_allclose(
        decayed, [[0, 0, 0], [0, 0, 0.5 ** (40 / 90)], [0.5, 0.5 + 0.5 ** (0.5 / 90), 0]], 1e-5
    )


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("popularity", [[0, 1], [0, 1], [0, 1]]),
        ("recent_popularity", [[0, 1], [0, 1], [0, 1]]),
        ("own_decayed_frequency", [[0, 1], [2, 0], [1, 0]]),
    ],
)
def test_each_baseline_on_a_hand_worked_case(history: History, name: str, lists: list[list[int]]) -> None:
    assert rank(simple_baselines(history)[name], 3, 3, NOTHING, 2).tolist() == lists


def test_excluded_pairs_are_in_no_list(history: History) -> None:
    excluded = np.array([0 * 3 + 0, 1 * 3 + 0, 1 * 3 + 1, 1 * 3 + 2, 2 * 3 + 1])
    ranked = rank(simple_baselines(history)["own_decayed_frequency"], 3, 3, excluded, 10)
    assert ranked.tolist() == [[1, 2, -1], [-1, -1, -1], [0, 2, -1]]


def test_blocks_do_not_matter(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, baseline in simple_baselines(history).items():
        whole = rank(baseline, 3, 3, NOTHING, 3)
        monkeypatch.setattr("materialize.training.baselines.BLOCK_CELLS", 1)
        assert rank(baseline, 3, 3, NOTHING, 3).tolist() == whole.tolist(), name
        monkeypatch.undo()
