"""A delta run's lists equal a full run's, whatever changed in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from materialize.scoring import PairScorer
from materialize.scoring.delta import Snapshot, run_delta, run_full

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def some(
    rng: np.random.Generator, table: pa.Table, keep: float, change: float, shuffle: bool = False
) -> pa.Table:
    """Some rows of a table, a few of them with the features of other rows."""
    rows = np.flatnonzero(rng.random(table.num_rows) < keep)
    if shuffle:
        rng.shuffle(rows)
    source = rows.copy()
    moved = rng.random(len(rows)) < change
    source[moved] = rng.integers(0, table.num_rows, int(moved.sum()))
    return pa.table(
        {
            name: table[name].take(pa.array(rows if name.endswith("_id") else source))
            for name in table.column_names
        }
    )


def same_lists(delta: Snapshot, full: Snapshot) -> None:
    a, b = delta.published, full.published
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.item_index, b.item_index)
    np.testing.assert_array_equal(a.scores, b.scores)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    change=st.sampled_from([0.0, 0.02, 0.2]),
    keep=st.sampled_from([1.0, 0.95, 0.6]),
    reserve=st.sampled_from([0, 3, 80]),
    model=st.sampled_from([False, False, False, True]),
    shuffle=st.booleans(),
    masked=st.booleans(),
    latent=st.sampled_from([0, 0, 2]),
)
def test_random_changes(
    world: Callable[..., Any],
    seed: int,
    change: float,
    keep: float,
    reserve: int,
    model: bool,
    shuffle: bool,
    masked: bool,
    latent: int,
) -> None:
    rng = np.random.default_rng(seed)
    case = world(seed % 40, trees=4, max_depth=3, latent=latent)
    scorer = PairScorer.from_xgboost(case.booster, case.scopes)
    snapshot: Snapshot | None = None
    for step in range(3):
        items = some(rng, case.items, keep, change if step else 0, shuffle and step == 2)
        users = some(rng, case.users, 0.9, change if step else 0, shuffle)
        inputs: dict[str, Any] = {
            "affinity": {g: some(rng, t, 1 - change, 0) for g, t in case.affinity.items()},
            "pairs": some(rng, case.pairs, 1 - change, 0),
            "exclude": some(
                rng, case.pairs.select(["user_id", "item_id"]), 0.3 if step == 0 else 1 - change, 0
            ),
        }
        item_latent: NDArray[np.float32] | None = None
        if latent:
            inputs["latent"] = case.user_latent[(users["user_id"].to_numpy() + 5) // 3]
            item_latent = case.item_latent[[int(i.split("-")[1]) for i in items["item_id"].to_pylist()]]
        if masked:
            inputs["eligible"] = rng.random((2, items.num_rows)) < 1 - change
            inputs["segments"] = users["user_id"].to_numpy() % 2
        if model and step == 2:
            scorer = PairScorer.from_xgboost(
                world(seed % 40, trees=5, max_depth=3, latent=latent).booster, case.scopes
            )
        catalogue = scorer.bind(items, item_latent)
        full = run_full(catalogue, users, 5, reserve, **inputs)
        if snapshot is None:
            snapshot = full
            continue
        snapshot, plan = run_delta(
            scorer, catalogue, items, snapshot, users, item_latent=item_latent, **inputs
        )
        same_lists(snapshot, full)
        assert len(plan.full) + len(plan.merged) == users.num_rows
        if model and step == 2:
            assert len(plan.merged) == 0


def test_nothing_changed_means_nothing_is_scored(world: Callable[..., Any]) -> None:
    case = world(1)
    scorer, catalogue = PairScorer.from_xgboost(case.booster, case.scopes), case.bind()
    before = run_full(catalogue, case.users, 5, 5, **case.inputs)
    after, plan = run_delta(scorer, catalogue, case.items, before, case.users, **case.inputs)
    assert len(plan.full) == len(plan.changed_items) == 0
    same_lists(after, before)


def test_a_value_that_crosses_no_threshold_is_no_change(world: Callable[..., Any]) -> None:
    case = world(2, plain=True, trees=1, max_depth=1)
    scorer, catalogue = PairScorer.from_xgboost(case.booster, case.scopes), case.bind()
    before = run_full(catalogue, case.users, 5, 5)
    unused = [n for n in case.users.column_names[1:] if n not in case.booster.get_fscore()]
    users = case.users
    for name in unused:
        users = users.set_column(users.column_names.index(name), name, pa.array(np.full(40, 1, np.float32)))
    assert unused
    _, plan = run_delta(scorer, catalogue, case.items, before, users)
    assert len(plan.full) == 0
