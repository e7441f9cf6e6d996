"""A small shop with taste: users who prefer categories and buy the same things again."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
CATEGORIES = ("bread", "dairy", "fruit", "tea")


def write_shop(folder: Path, *, users: int = 150, items: int = 60, days: int = 180, seed: int = 0) -> Path:
    """Write events.parquet, users.parquet, items.parquet and a prescore.toml; the settings file is returned.

    The last tenth of the users has not bought for 100 days, so that it is scored on demand.
    """
    rng = np.random.default_rng(seed)
    category = rng.integers(0, len(CATEGORIES), items)
    taste = rng.dirichlet(np.full(len(CATEGORIES), 0.5), users)
    popularity = rng.zipf(1.6, items).clip(max=30).astype(float)
    per_user = rng.integers(20, 80, users)
    user = np.repeat(np.arange(users), per_user)
    weights = taste[:, category] * popularity
    favourites = np.stack([rng.choice(items, 8, replace=False, p=w / w.sum()) for w in weights + 1e-9])
    loyal = rng.random(len(user)) < 0.7
    item = np.where(loyal, favourites[user, rng.integers(0, 8, len(user))], rng.integers(0, items, len(user)))
    age_days = rng.random(len(user)) * days
    sleeping = user >= users - users // 10
    age_days[sleeping] = 100 + age_days[sleeping] % (days - 100)
    stamps = np.array([CUTOFF - dt.timedelta(days=float(a)) for a in age_days], dtype=object)
    order = np.argsort(age_days)[::-1]
    events = pa.table(
        {
            "user_id": pa.array(user[order] + 1, pa.int64()),
            "item_id": pa.array(item[order] + 1000, pa.int64()),
            "event_time": pa.array(stamps[order].tolist(), pa.timestamp("us", "UTC")),
            "value": pa.array(np.round(rng.gamma(2.0, 2.0, len(user)), 2)),
        }
    )
    pq.write_table(events, folder / "events.parquet")
    people = {
        "user_id": pa.array(range(1, users + 1), pa.int64()),
        "age": pa.array(rng.integers(18, 80, users), pa.int64()),
        "town": pa.array(rng.choice(["north", "south"], users).tolist()),
    }
    pq.write_table(pa.table(people), folder / "users.parquet")
    things = {
        "item_id": pa.array(range(1000, 1000 + items), pa.int64()),
        "name": pa.array([f"{CATEGORIES[c]} no. {i}" for i, c in enumerate(category)]),
        "category": pa.array([CATEGORIES[c] for c in category]),
        "price": pa.array(np.round(rng.gamma(2.0, 2.0, items), 2)),
    }
    pq.write_table(pa.table(things), folder / "items.parquet")
    settings = folder / "prescore.toml"
    settings.write_text(
        """\
project = "shop"
model = "picks"
[events]
path = "events.parquet"
value = "value"
[users]
path = "users.parquet"
[items]
path = "items.parquet"
title = "name"
groups = ["category"]
columns = ["price"]
[candidates]
min_events = 2
[training]
trees = 20
windows = 2
[scoring]
k = 20
users_per_block = 64
[cluster]
workers = 1
"""
    )
    return settings
