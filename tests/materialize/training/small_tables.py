"""Small tables to train on: a grocery whose customers repeat, and films that nobody sees twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from materialize.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

CUTOFF = datetime(2024, 7, 1, tzinfo=UTC)


def write_tables(folder: Path, rows: list[tuple[object, object, float]], text: str = "") -> Settings:
    """Events of (user, item, days before the cut-off)."""
    users, items, ages = zip(*rows, strict=True)
    times = pa.array([CUTOFF - timedelta(days=float(age)) for age in ages], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"user_id": list(users), "item_id": list(items), "event_time": times}),
        folder / "events.parquet",
    )
    file = folder / "prescore.toml"
    file.write_text(
        f"[events]\npath = 'events.parquet'\n[candidates]\nmin_events = 1\n[training]\ntrees = 10\neta = 0.3\n{text}"
    )
    return load_settings(file)


def grocery(seed: int = 0) -> list[tuple[object, object, float]]:
    """60 users with 4 favourites each among 30 items, bought weekly or so, and now and then something else."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, object, float]] = []
    for user in range(60):
        favourites = rng.choice(30, 4, replace=False)
        for age in np.arange(0.5, 160, 4) + rng.random():
            item = rng.choice(favourites) if rng.random() < 0.8 else rng.integers(0, 30)
            rows.append((user, int(item), float(age)))
    return rows


def films(seed: int = 0) -> list[tuple[object, object, float]]:
    """80 users see about 20 of 60 films, mostly of one of two tastes, each once; ids are text."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, object, float]] = []
    for user in range(80):
        taste = np.where(np.arange(60) % 2 == user % 2, 10.0, 1.0) / (1 + np.arange(60) // 2)
        seen = rng.choice(60, 20, replace=False, p=taste / taste.sum())
        rows += [
            (f"user {user}", f"Film “{film}”, the", float(age))
            for film, age in zip(seen, rng.random(20) * 160, strict=True)
        ]
    return rows
