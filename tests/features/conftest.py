"""Three small tables, as arrays that a test may spoil before they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.settings import CandidateSettings, EventsSettings, FeatureSettings, ItemsSettings, UsersSettings

if TYPE_CHECKING:
    from pathlib import Path

CUTOFF = datetime(2024, 3, 1, tzinfo=UTC)


@dataclass
class ThreeTables:
    """Tables and settings of a small shop; ``write`` puts them into files."""

    folder: Path
    events: dict[str, Any]
    users: dict[str, Any]
    items: dict[str, Any]
    event_settings: dict[str, Any] = field(default_factory=dict)
    user_settings: dict[str, Any] = field(default_factory=dict)
    item_settings: dict[str, Any] = field(default_factory=dict)
    feature_settings: dict[str, Any] = field(default_factory=dict)

    def write(self) -> ThreeTables:
        """Write Parquet files, in place of those of an earlier call."""
        for name in ("events", "users", "items"):
            pq.write_table(pa.table(getattr(self, name)), self.folder / f"{name}.parquet")
        return self

    @property
    def settings(self) -> Sections:
        """Sections as they stand in prescore.toml."""
        return Sections(
            EventsSettings(path=str(self.folder / "events.parquet"), value="amount", **self.event_settings),
            UsersSettings(path=str(self.folder / "users.parquet"), **self.user_settings),
            ItemsSettings(
                path=str(self.folder / "items.parquet"),
                **{"title": "name", "groups": ("shelf",)} | self.item_settings,
            ),
            CandidateSettings(min_events=2, window_days=60),
            FeatureSettings(
                **{"windows_days": (7, 30), "half_lives_days": (14.0, 60.0)} | self.feature_settings
            ),
        )


@dataclass(frozen=True)
class Sections:
    """What :class:`features.sources.SourceSections` asks for."""

    events: EventsSettings
    users: UsersSettings
    items: ItemsSettings
    candidates: CandidateSettings
    features: FeatureSettings


def make_tables(
    folder: Path, *, users: int = 30, items: int = 20, events: int = 600, seed: int = 0
) -> ThreeTables:
    """Events of 100 days before the cut-off and 10 after it."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(-100 * 86_400, 10 * 86_400, events)
    times = [CUTOFF + timedelta(seconds=int(s)) for s in seconds]
    return ThreeTables(
        folder,
        events={
            "user_id": pa.array(rng.integers(1, users + 1, events)),
            "item_id": pa.array(rng.integers(100, 100 + items, events)),
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            "amount": pa.array(np.round(rng.gamma(2, 3, events), 2)),
        },
        users={
            "user_id": pa.array(range(1, users + 3)),
            "age": pa.array([None if n % 7 == 0 else n + 20 for n in range(users + 2)], pa.int64()),
            "town": pa.array([("north", "south", None)[n % 3] for n in range(users + 2)]),
        },
        items={
            "item_id": pa.array(range(100, 100 + items + 2)),
            "name": pa.array([f"thing {n}" for n in range(items + 2)]),
            "shelf": pa.array([(None, "tea", "bread", "fruit")[n % 4] for n in range(items + 2)]),
            "price": pa.array([n / 4 for n in range(items + 2)]),
        },
    )


@pytest.fixture
def tables(tmp_path: Path) -> ThreeTables:
    """Three sound tables, not yet written."""
    folder = tmp_path / "tables"
    folder.mkdir()
    return make_tables(folder)
