"""A delta run's lists equal a full run's, whatever changed in between, and it says what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import SchemaMismatchError
from materialize.scoring import PairScorer
from materialize.scoring.delta import DeltaScorer, run_full
from materialize.scoring.signatures import SignedItems

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from materialize.scoring import TopK
    from materialize.scoring.snapshot import Snapshot

Lists = dict[object, tuple[list[object], list[float]]]


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


def lists(top: TopK) -> Lists:
    """Items and scores by user."""
    items = top.item_ids
    return {
        user: (items[u, :n].tolist(), top.scores[u, :n].tolist())
        for u, (user, n) in enumerate(zip(top.user_ids.to_pylist(), top.counts, strict=True))
    }


def without_empty(found: Lists) -> Lists:
    return {user: entries for user, entries in found.items() if entries[0]}


def same_arrays(a: TopK, b: TopK) -> None:
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.item_index, b.item_index)
    np.testing.assert_array_equal(a.scores, b.scores)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**20),
    change=st.sampled_from([0.0, 0.02, 0.2]),
    keep=st.sampled_from([1.0, 0.95, 0.6]),
    reserve=st.sampled_from([0, 3, 80]),
    model=st.sampled_from([False, False, False, True]),
    shuffle=st.booleans(),
    masked=st.booleans(),
    latent=st.sampled_from([0, 0, 2]),
    k=st.sampled_from([(5, 5, 5), (5, 5, 5), (5, 7, 4)]),
    threads=st.sampled_from([1, 2]),
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
    k: tuple[int, int, int],
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    case = world(seed % 40, users=70, trees=4, max_depth=3, latent=latent)
    scorer = PairScorer.from_xgboost(case.booster, case.scopes)
    snapshot: Snapshot | None = None
    before: SignedItems | None = None
    published: Lists = {}
    for step in range(3):
        items = some(rng, case.items, keep, change if step else 0, shuffle and step == 2)
        users = some(rng, case.users, 0.9, change if step else 0, shuffle)
        seen = case.pairs.select(["user_id", "item_id"])
        inputs: dict[str, Any] = {
            "affinity": {g: some(rng, t, 1 - change, 0) for g, t in case.affinity.items()},
            # Some rows twice, with other values: the last one counts.
            "pairs": pa.concat_tables(
                [some(rng, case.pairs, 1 - change, 0), some(rng, case.pairs, 0.05, change)]
            ),
            "exclude": some(rng, seen, 0.3 if step == 0 else 1 - change, 0),
            "threads": threads,
        }
        item_latent: NDArray[np.float32] | None = None
        eligible: NDArray[np.bool_] | None = None
        if latent:
            inputs["latent"] = case.user_latent[(users["user_id"].to_numpy() + 5) // 3]
            item_latent = case.item_latent[[int(i.split("-")[1]) for i in items["item_id"].to_pylist()]]
        if masked:
            eligible = rng.random((2, items.num_rows)) < 1 - change
            inputs["segments"] = users["user_id"].to_numpy() % 2
        if model and step == 2:
            other = world(seed % 40, users=70, trees=5, max_depth=3, latent=latent)
            scorer = PairScorer.from_xgboost(other.booster, case.scopes)
        catalogue = scorer.bind(items, item_latent)
        signed = SignedItems.of(catalogue, eligible)
        full = run_full(catalogue, signed, users, k[step], reserve, eligible=eligible, **inputs)
        expected = lists(full.published(catalogue.item_ids))
        if snapshot is None or before is None:
            snapshot, before, published = full, signed, expected
            continue
        delta = DeltaScorer.of(catalogue, before, eligible)
        plan = delta.plan(snapshot, users, **inputs)
        done = delta.run(snapshot, users, k[step], reserve, **inputs)
        same_arrays(done.snapshot.published(catalogue.item_ids), full.published(catalogue.item_ids))
        np.testing.assert_array_equal(done.snapshot.signatures, full.signatures)
        np.testing.assert_array_equal(done.snapshot.digests, full.digests)
        for ours, theirs in zip(vars(plan).values(), vars(done.plan).values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert sorted(np.concatenate(list(vars(plan).values()))) == list(range(users.num_rows))
        if model and step == 2:
            assert len(plan.full) == users.num_rows

        changed = lists(done.changed)
        assert changed == {
            user: entries
            for user, entries in without_empty(expected).items()
            if published.get(user) != entries
        }
        gone = set(done.gone.to_pylist())
        assert gone == without_empty(published).keys() - without_empty(expected).keys()
        patched = {user: entries for user, entries in published.items() if user not in gone} | changed
        assert without_empty(patched) == without_empty(expected)
        snapshot, before, published = done.snapshot, delta.now, expected


def test_nothing_changed_means_nothing_is_scored(world: Callable[..., Any]) -> None:
    case = world(1)
    catalogue = case.bind()
    signed = SignedItems.of(catalogue)
    before = run_full(catalogue, signed, case.users, 5, 5, **case.inputs)
    delta = DeltaScorer.of(case.bind(), signed)
    done = delta.run(before, case.users, 5, 5, **case.inputs)
    assert len(done.plan.unchanged) == case.users.num_rows
    assert len(delta.changed_items) == len(done.changed.counts) == len(done.gone) == 0
    same_arrays(done.snapshot.published(catalogue.item_ids), before.published(catalogue.item_ids))


def test_a_value_that_crosses_no_threshold_is_no_change(world: Callable[..., Any]) -> None:
    case = world(2, plain=True, trees=1, max_depth=1)
    catalogue = case.bind()
    signed = SignedItems.of(catalogue)
    before = run_full(catalogue, signed, case.users, 5, 5)
    unused = [n for n in case.users.column_names[1:] if n not in case.booster.get_fscore()]
    users = case.users
    for name in unused:
        users = users.set_column(users.column_names.index(name), name, pa.array(np.full(40, 1, np.float32)))
    assert unused
    assert len(DeltaScorer.of(catalogue, signed).plan(before, users).full) == 0


def test_one_more_item_is_scored_alone_and_one_less_costs_no_row(world: Callable[..., Any]) -> None:
    case = world(4)
    inputs = {"pairs": case.pairs, "exclude": case.pairs.select(["user_id", "item_id"]).slice(0, 20)}
    assert "item-59" in case.pairs["item_id"].to_pylist(), (
        "whoever has a row with it is not scored in full either"
    )
    scorer = PairScorer.from_xgboost(case.booster, case.scopes)
    fewer = scorer.bind(case.items.slice(0, 59))
    signed = SignedItems.of(fewer)
    before = run_full(fewer, signed, case.users, 5, 20, **inputs)
    more = DeltaScorer.of(case.bind(), signed)
    assert more.changed_items.to_pylist() == ["item-59"]
    done = more.run(before, case.users, 5, 20, **inputs)
    assert len(done.plan.full) == len(done.exhausted) == 0
    back = DeltaScorer.of(fewer, more.now).run(done.snapshot, case.users, 5, 20, **inputs)
    assert len(back.plan.full) == len(back.exhausted) == 0
    held = (done.snapshot.item_index == 59).any(axis=1)
    np.testing.assert_array_equal(back.plan.merged, np.flatnonzero(held))
    same_arrays(back.snapshot.published(fewer.item_ids), before.published(fewer.item_ids))


def test_a_snapshot_is_not_compared_with_items_of_another_run(world: Callable[..., Any]) -> None:
    case = world(4, plain=True)
    catalogue = case.bind()
    before = run_full(catalogue, SignedItems.of(catalogue), case.users, 5, 5)
    other = PairScorer.from_xgboost(case.booster, case.scopes).bind(case.items.slice(1))
    with pytest.raises(SchemaMismatchError, match="another run"):
        DeltaScorer.of(catalogue, SignedItems.of(other)).run(before, case.users, 5, 5)
    with pytest.raises(SchemaMismatchError, match="eligibility mask"):
        SignedItems.of(catalogue, np.ones(3, np.bool_))
