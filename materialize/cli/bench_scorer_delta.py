"""What a delta run costs beside a full one, for ``prescore bench scorer``."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from materialize.cli.bench_scorer_world import SIDE, Shape, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

K, RESERVE = 100, 25
USERS_CHANGED, ITEMS_CHANGED = 0.02, 0.005


def bench_delta(*, users: int = 32_768, items: int = 10_000, rounds: int = 3, k: int = K) -> dict[str, Any]:
    """Change some users and items of 100 trees x depth 6, and time a full and a delta run, alternating.

    Both give the same lists and the same snapshot, from tables in memory, on one thread, as a worker has it. Times are
    the processor's, so that other work on the machine does not count.

    Args:
        users: Of either run.
        items: Of either run.
        rounds: The ratio is the median over so many.
        k: Entries of a list.

    Returns:
        Microseconds per user of both, their ratio, what the delta did, and whether its lists are those of the full run.
    """
    from materialize.scoring import PairScorer
    from materialize.scoring.delta import DeltaScorer, run_full
    from materialize.scoring.signatures import SignedItems

    rng = np.random.default_rng(4)
    world = World(Shape(100, 6), items)
    scorer = PairScorer.from_xgboost(world.booster, world.scopes)
    old = scorer.bind(world.item_table)
    some = world.users(users)
    before = SignedItems.of(old)
    previous = run_full(old, before, some.table, k, RESERVE, threads=1)
    catalogue = scorer.bind(_changed(rng, world.item_table, [f"i{n}" for n in range(SIDE)], ITEMS_CHANGED))
    now = _changed(rng, some.table, [f"u{n}" for n in range(SIDE)], USERS_CHANGED)
    signed = SignedItems.of(catalogue)
    preparing = _seconds(lambda: DeltaScorer.of(catalogue, before))
    delta = DeltaScorer.of(catalogue, before)
    full = run_full(catalogue, signed, now, k, RESERVE, threads=1)
    done = delta.run(previous, now, k, RESERVE, threads=1)
    times = [
        (
            _seconds(lambda: run_full(catalogue, signed, now, k, RESERVE, threads=1)),
            _seconds(lambda: delta.run(previous, now, k, RESERVE, threads=1)),
        )
        for _ in range(rounds)
    ]
    ours, theirs = done.snapshot.published(catalogue.item_ids), full.published(catalogue.item_ids)
    equal = np.array_equal(ours.item_index, theirs.item_index) and np.array_equal(ours.scores, theirs.scores)
    return {
        "users": users,
        "users rescored": len(done.plan.full) + len(done.exhausted),
        "items changed": len(delta.changed_items),
        "lists changed": len(done.changed.counts),
        "full us/user": statistics.median(full for full, _ in times) / users * 1e6,
        "delta us/user": statistics.median(part for _, part in times) / users * 1e6,
        "full / delta": statistics.median(full / part for full, part in times),
        "required": 15,
        "aim": 30,
        "once per worker ms": preparing * 1e3,
        "equal": equal,
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _changed(rng: np.random.Generator, table: pa.Table, columns: Sequence[str], share: float) -> pa.Table:
    rows = rng.random(table.num_rows) < share
    for name in columns:
        values = table[name].to_numpy().copy()
        values[rows] = rng.normal(size=int(rows.sum()))
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table
