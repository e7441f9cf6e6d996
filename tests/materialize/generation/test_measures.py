"""Measures of lists, against hand-worked cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import StorageError
from materialize.generation.compared_lists import ComparedLists
from materialize.generation.measures import ks_distance, measure_lists
from materialize.publish.scored_tables import write_block_file

if TYPE_CHECKING:
    from pathlib import Path

Lists = dict[int, list[tuple[int, float]]]


def write(folder: Path, lists: Lists) -> list[str]:
    """Two files, as blocks are."""
    folder.mkdir()
    rows = [
        (u, rank, item, score)
        for u, entries in sorted(lists.items())
        for rank, (item, score) in enumerate(entries, 1)
    ]
    files = []
    for number in (0, 1):
        part = [r for r in rows if r[0] % 2 == number]
        table = pa.table(
            {
                "user_id": pa.array([r[0] for r in part], pa.int64()),
                "rank": pa.array([r[1] for r in part], pa.int32()),
                "item_id": pa.array([r[2] for r in part], pa.int64()),
                "score": pa.array([r[3] for r in part], pa.float32()),
            }
        )
        files.append(str(write_block_file(folder / f"{number}.parquet", "g", table).path))
    return files


def compared(
    files: list[str], live: list[str] | None = None, *, k: int = 10, lists: int = 3
) -> ComparedLists:
    return ComparedLists(files=[files], live_files=[live] if live else [], k=k, users=lists, lists=lists)


def test_a_first_generation(tmp_path: Path) -> None:
    lists: Lists = {1: [(10, 3.0), (11, 2.0)], 2: [(10, 1.0), (12, 1.0)], 3: [(13, 5.0)]}
    found = measure_lists(compared(write(tmp_path / "new", lists)))
    assert (found.rows, found.users, found.bad_scores) == (5, 3, 0)
    assert found.constant_lists == 0.5  # of users 1 and 2: one entry has nothing to differ from
    assert found.concentration == 1.0  # four items take all places
    assert (found.compared_users, found.score_shift, found.churn) == (0, None, None)


def test_bad_scores_are_counted(tmp_path: Path) -> None:
    lists: Lists = {1: [(10, float("inf")), (11, float("nan"))], 2: [(10, 0.0)]}
    assert measure_lists(compared(write(tmp_path / "new", lists))).bad_scores == 2


def test_concentration_is_the_share_of_the_ten_commonest(tmp_path: Path) -> None:
    lists: Lists = {
        u: [(i, 1.0 - i / 100) for i in ([*range(9), 100 + u] if u else range(10))] for u in range(5)
    }
    # 50 places: items 0 … 8 take 45 of them, the tenth commonest one more.
    assert measure_lists(compared(write(tmp_path / "new", lists))).concentration == pytest.approx(46 / 50)


def test_churn_compares_the_users_that_both_have(tmp_path: Path) -> None:
    new: Lists = {1: [(10, 1.0), (11, 0.5)], 2: [(10, 1.0), (12, 0.5)], 3: [(10, 1.0)]}
    old: Lists = {1: [(11, 1.0), (10, 0.5)], 2: [(10, 1.0), (13, 0.5)], 4: [(10, 1.0)]}
    found = measure_lists(compared(write(tmp_path / "new", new), write(tmp_path / "old", old)))
    assert (found.compared_users, found.churn) == (2, 0.25)


def test_lists_of_different_length_are_compared_as_far_as_both_go(tmp_path: Path) -> None:
    new: Lists = {1: [(10, 1.0), (11, 0.5)]}
    old: Lists = {1: [(10, 1.0), (11, 0.5), (12, 0.4)]}
    shorter = measure_lists(compared(write(tmp_path / "new", new), write(tmp_path / "old", old), k=2))
    assert (shorter.churn, shorter.compared_users) == (0.0, 1)


def test_a_delta_is_measured_on_what_changed_in_proportion_to_all(tmp_path: Path) -> None:
    # User 1 gets another list, user 5 is new, user 4 is gone; 2 and 3 stay as the parent left them.
    old: Lists = {1: [(10, 1.0), (11, 0.5)], 2: [(10, 1.0)], 3: [(10, 1.0)], 4: [(14, 1.0)]}
    parent = write(tmp_path / "old", old)
    own = write(tmp_path / "new", {1: [(10, 1.0), (12, 0.5)], 5: [(15, 2.0)]})
    gone = pa.table(
        {
            "user_id": [4],
            "rank": pa.array([0], pa.int32()),
            "item_id": pa.nulls(1, pa.int64()),
            "score": pa.nulls(1, pa.float32()),
        }
    )
    own.append(str(write_block_file(tmp_path / "new" / "gone.parquet", "g", gone).path))
    lists = ComparedLists(files=[own, parent], live_files=[parent], k=2, users=2, lists=4)
    found = measure_lists(lists)
    assert (found.rows, found.users, found.bad_scores, found.compared_users) == (4, 4, 0, 1)
    assert found.churn == 0.25  # half of one list of the two that changed, of four
    assert found.concentration == 1.0
    assert sorted(found.samples.live_scores.tolist()) == [0.5, 1.0, 1.0]
    assert found.samples.top_items == [(10, 0.75), (12, 0.25), (15, 0.25)]


def test_no_list_at_all_is_no_user() -> None:
    found = measure_lists(compared([], ["whatever.parquet"], lists=0))
    assert (found.rows, found.users) == (0, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be measured"):
        measure_lists(compared([str(tmp_path / "none.parquet")]))


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30),
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30),
)
def test_the_distance_is_that_of_kolmogorov_and_smirnov(one: list[float], other: list[float]) -> None:
    found = ks_distance(np.array(one, np.float32), np.array(other, np.float32))
    shares = [(np.mean(np.array(one) <= x), np.mean(np.array(other) <= x)) for x in one + other]
    assert found == pytest.approx(max(abs(a - b) for a, b in shares))


def test_the_distance_to_nothing_is_not_a_number() -> None:
    assert np.isnan(ks_distance(np.zeros(0, np.float32), np.zeros(1, np.float32)))
