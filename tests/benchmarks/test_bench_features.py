"""The benchmark of features runs from end to end on a small log, and builds what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.feature_build import list_builds
from materialize.cli.bench_features import bench_features

if TYPE_CHECKING:
    from pathlib import Path


def test_a_small_log_at_three_sizes(tmp_path: Path) -> None:
    rows = list(bench_features(events=20_000, users=400, items=100, memory="500MB", folder=tmp_path))
    assert [(row["events"], row["users"]) for row in rows] == [(5000, 100), (10_000, 200), (20_000, 400)]
    assert all(row["peak GiB"] > 0.1 and row["spilled GiB"] == 0 for row in rows)
    (build,) = list_builds(tmp_path / "part_1" / ".prescore" / "warehouse" / "features")
    assert (build.rows("user.parquet"), build.groups) == (400, ["category"])
    assert rows[-1]["pair rows"] == build.rows("pair.parquet") > 400
    events = build.read_users(columns=["user_events"])["user_events"].to_numpy()
    assert 0.99 * 20_000 < events.sum() <= 20_000, "all of them but what was drawn twice"
