"""Every standard feature against a plain computation, row by row, in pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.build import build_features
from tests.features.conftest import CUTOFF, make_tables

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild

DAY = pd.Timedelta(days=1)
HISTORY = 50


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureBuild, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("tables")
    tables = make_tables(folder, users=12, items=8, events=400)
    tables.feature_settings["pair_history_days"] = HISTORY
    build = build_features(tables.write().settings, CUTOFF, folder / "out")
    events = pa.table(tables.events).to_pandas()
    events["age"] = (pd.Timestamp(CUTOFF) - events.event_time) / DAY
    shelves = dict(zip(tables.items["item_id"].to_pylist(), tables.items["shelf"].to_pylist(), strict=True))
    events["shelf"] = events.item_id.map(shelves)
    return build, events[events.age > 0]


def check(found: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        got = found[name]
        if np.isnan(value):
            assert got is None, name
        else:
            assert got == pytest.approx(value, rel=1e-5), name


def test_user_features(built: tuple[FeatureBuild, pd.DataFrame]) -> None:
    build, events = built
    for row in build.read_users().to_pylist():
        own = events[events.user_id == row["user_id"]]
        if own.empty:
            assert row["user_events"] is None
            continue
        expected: dict[str, float] = {
            "user_events": len(own),
            "user_items": own.item_id.nunique(),
            "user_mean_value": own.amount.mean(),
            "user_repeat_share": 1 - own.item_id.nunique() / len(own),
            "user_recency_days": own.age.min(),
            "user_tenure_days": own.age.max(),
            "user_events_per_day": len(own) / own.age.max(),
        }
        for days in (7, 30):
            recent = own[own.age <= days]
            expected[f"user_events_{days}d"] = len(recent)
            expected[f"user_value_{days}d"] = recent.amount.sum()
            expected[f"user_items_{days}d"] = recent.item_id.nunique()
        check(row, expected)


def pairs_of(events: pd.DataFrame) -> int:
    return len(events[["user_id", "item_id"]].drop_duplicates())


def test_item_features(built: tuple[FeatureBuild, pd.DataFrame]) -> None:
    build, events = built
    for row in build.read_items(candidates_only=False).to_pylist():
        own = events[events.item_id == row["item_id"]]
        if own.empty:
            assert row["item_event_share_7d"] is None
            continue
        history = own[own.age <= HISTORY].groupby("user_id").size()
        expected: dict[str, float] = {
            "item_mean_value": own.amount.mean(),
            "item_recency_days": own.age.min(),
            "item_age_days": own.age.max(),
            "item_repeat_rate": float((history > 1).mean()),
            "item_events_per_user": float(history.mean()),
            "item_user_share": own.user_id.nunique() / pairs_of(events),
            "item_trend": ((own.age <= 7).sum() / 7) / ((own.age <= 30).sum() / 30),
        }
        for days in (7, 30):
            recent = events[events.age <= days]
            mine = recent[recent.item_id == row["item_id"]]
            expected[f"item_event_share_{days}d"] = len(mine) / len(recent)
            expected[f"item_user_share_{days}d"] = mine.user_id.nunique() / pairs_of(recent)
        for half_life in (14, 60):
            decayed = 0.5 ** (events[events.age <= HISTORY].age / half_life)
            mine = decayed[events.item_id == row["item_id"]]
            expected[f"item_decayed_share_{half_life}d"] = mine.sum() / decayed.sum()
        check(row, expected)


def test_affinity_features(built: tuple[FeatureBuild, pd.DataFrame]) -> None:
    build, events = built
    history = events[events.age <= HISTORY]
    groups: dict[Any, pd.DataFrame] = {tuple(key): own for key, own in history.groupby(["user_id", "shelf"])}
    rows = {(r["user_id"], r["shelf"]): r for r in build.read_affinity("shelf").to_pylist()}
    assert rows.keys() == groups.keys(), "a combination without events has no row"
    for key, own in groups.items():
        check(
            rows[key],
            {
                "shelf_events": len(own),
                "shelf_decayed_60d": (0.5 ** (own.age / 60)).sum(),
                "shelf_share": len(own) / (history.user_id == key[0]).sum(),
                "shelf_recency_days": own.age.min(),
            },
        )


def test_pair_features(built: tuple[FeatureBuild, pd.DataFrame]) -> None:
    build, events = built
    history = events[events.age <= HISTORY]
    pairs: dict[Any, pd.DataFrame] = {tuple(key): own for key, own in history.groupby(["user_id", "item_id"])}
    rows = {(r["user_id"], r["item_id"]): r for r in build.read_pairs().to_pylist()}
    rows = {key: row for key, row in rows.items() if row["pair_events"] is not None}
    assert rows.keys() == pairs.keys(), "a pair without events is a neighbour at most"
    for key, own in pairs.items():
        gap = (own.age.max() - own.age.min()) / (len(own) - 1) if len(own) > 1 else float("nan")
        check(
            rows[key],
            {
                "pair_events": len(own),
                "pair_decayed_14d": (0.5 ** (own.age / 14)).sum(),
                "pair_decayed_60d": (0.5 ** (own.age / 60)).sum(),
                "pair_share": len(own) / (history.user_id == key[0]).sum(),
                "pair_recency_days": own.age.min(),
                "pair_gap_days": gap,
                "pair_recency_gaps": own.age.min() / gap,
            },
        )
