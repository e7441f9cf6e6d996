"""Plans: the same inputs give the same id, other inputs another one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import SourceError
from features.feature_build import block_range
from materialize.generation.plan import Plan, active_users, count_blocks, plan_generation
from materialize.settings import ScoringSettings

CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Build:
    """As much of a feature build as a plan looks at."""

    last_events: list[dt.datetime | None]
    items: int = 3
    fingerprint: str = "f1"
    cutoff: dt.datetime = CUTOFF
    manifest: Any = field(default_factory=lambda: SimpleNamespace(cutoff="20240701T000000Z"))

    def read_users(self, columns: list[str]) -> pa.Table:
        return pa.table({"last_event": pa.array(self.last_events, TIME)}).select(columns)

    def read_items(self, columns: list[str]) -> pa.Table:
        return pa.table({"item_id": list(range(self.items))}).select(columns)


@dataclass(frozen=True)
class Bundle:
    """As much of a model bundle."""

    id: str = "m1"
    name: str = "picks"
    exclude_seen: bool = False


def days_ago(days: float) -> dt.datetime:
    return CUTOFF - dt.timedelta(days=days)


ACTIVE = Build([days_ago(1), days_ago(90), days_ago(91), None])


def plan(build: Build = ACTIVE, bundle: Bundle | None = None, **scoring: Any) -> Plan:
    return plan_generation(ScoringSettings(**scoring), build, bundle or Bundle())  # type: ignore[arg-type]


def test_the_same_inputs_are_the_same_generation() -> None:
    assert plan() == plan()
    assert plan().generation.id.startswith("20240701T000000Z-")
    assert len(plan().generation.id) == len("20240701T000000Z-") + 8


def test_any_other_input_is_another_generation() -> None:
    plans = [
        plan(),
        plan(k=7),
        plan(active_within_days=30),
        plan(users_per_block=64),
        plan(bundle=Bundle(id="m2")),
        plan(bundle=Bundle(exclude_seen=True)),
        plan(Build(ACTIVE.last_events, fingerprint="f2")),
    ]
    assert len({p.generation.id for p in plans}) == len(plans)


def test_active_users_are_counted_to_the_instant() -> None:
    assert plan().generation.users == 2
    assert plan().active_since == days_ago(90)
    assert plan(active_within_days=0).generation.users == 4
    assert plan(active_within_days=0).active_since is None


def test_nothing_to_do_is_an_error_that_says_why() -> None:
    with pytest.raises(SourceError, match="no user to precompute"):
        plan(Build([None]))
    with pytest.raises(SourceError, match="no item to recommend"):
        plan(Build([days_ago(1)], items=0))


@given(st.integers(1, 10_000_000), st.integers(1, 100_000))
def test_blocks_are_no_larger_than_asked_and_cover_every_hash(users: int, users_per_block: int) -> None:
    blocks = count_blocks(users, users_per_block)
    assert users / blocks <= users_per_block
    assert blocks >= min(8, users / 256)
    some = sorted({0, blocks // 2, blocks - 1})
    ranges = [block_range(n, blocks) for n in some]
    assert ranges[0].low == 0
    assert ranges[-1].high == 2**32


def test_users_without_events_are_active_only_if_all_are() -> None:
    table = pa.table({"last_event": pa.array([None, days_ago(1)], TIME)})
    assert active_users(table, days_ago(2)).num_rows == 1
    assert active_users(table, None).num_rows == 2
