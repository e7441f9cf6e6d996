"""What ``prescore init`` says about files that it has never seen."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from features.build import build_features
from features.errors import SourceError
from features.guess import guess_settings
from features.settings import CandidateSettings, EventsSettings, FeatureSettings, ItemsSettings, UsersSettings
from tests.features.conftest import CUTOFF, Sections

if TYPE_CHECKING:
    from pathlib import Path

    from tests.features.conftest import ThreeTables


def test_parquet_files_are_told_apart_by_what_they_hold(tables: ThreeTables, tmp_path: Path) -> None:
    events = pa.table(tables.events).rename_columns(["customer_id", "sku", "ordered_at", "amount"])
    users = pa.table(tables.users).rename_columns(["customer_id", "age", "town"])
    items = pa.table(tables.items).rename_columns(["sku", "product_name", "shelf", "price"])
    for name, table in (("orders", events), ("customers", users), ("products", items)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "notes.md").write_text("not a table")
    settings, reasons = guess_settings(tmp_path)
    assert settings == {
        "events": {
            "path": "orders.parquet",
            "user": "customer_id",
            "item": "sku",
            "time": "ordered_at",
            "value": "amount",
        },
        "users": {"path": "customers.parquet", "id": "customer_id"},
        "items": {"path": "products.parquet", "id": "sku", "title": "product_name", "groups": ["shelf"]},
    }
    assert any("orders.parquet is the events table" in reason for reason in reasons)
    assert any("'shelf' groups the items (3 values)" in reason for reason in reasons)


def test_typed_headers_epochs_and_ratings_lead_to_a_build(tables: ThreeTables, tmp_path: Path) -> None:
    seconds = tables.events["event_time"].cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    titles = [f'"Thing" {n}' for n in tables.events["item_id"].to_pylist()]
    events = pa.table(
        {"user_id:token": [f"u{n}" for n in tables.events["user_id"].to_pylist()], "item_id:token": titles,
         "rating:float": [n % 5 + 1 for n in range(600)], "timestamp:float": seconds}
    )  # fmt: skip
    users = pa.table({"user_id:token": [f"u{n}" for n in range(1, 31)], "age:float": range(30)})
    items = pa.table({"item_id:token": sorted(set(titles)), "release_year:float": range(len(set(titles)))})
    options = pa.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    for ending, table in (("inter", events), ("user", users), ("item", items)):
        lines = ["\t".join(table.column_names)]
        lines += ["\t".join(str(v) for v in row.values()) for row in table.to_pylist()]
        (tmp_path / f"films.{ending}").write_text("\n".join(lines) + "\n")
    assert options.delimiter == "\t"
    settings, reasons = guess_settings(tmp_path)
    assert settings["events"] == {
        "path": "films.inter", "user": "user_id", "item": "item_id", "time": "timestamp",
        "time_unit": "s", "value": "rating", "min_value": 4.0,
    }  # fmt: skip
    assert settings["users"] == {"path": "films.user", "id": "user_id"}
    assert settings["items"] == {"path": "films.item", "id": "item_id"}
    assert any("is a rating" in reason for reason in reasons)
    placed = {role: own | {"path": str(tmp_path / own["path"])} for role, own in settings.items()}
    sections = Sections(
        EventsSettings(**placed["events"]), UsersSettings(**placed["users"]), ItemsSettings(**placed["items"]),
        CandidateSettings(min_events=1), FeatureSettings(),
    )  # fmt: skip
    build = build_features(sections, CUTOFF, tmp_path / "out")
    assert build.schema.item_id_type == "string"
    assert build.read_items()["item_id"].to_pylist()[0].startswith('"Thing"')


def test_text_without_zones_and_partial_tables(tables: ThreeTables, tmp_path: Path) -> None:
    stamps = [t.replace(tzinfo=None).isoformat(" ") for t in tables.events["event_time"].to_pylist()]
    events = pa.table({**tables.events, "event_time": pa.array(stamps)})
    pa.csv.write_csv(events, tmp_path / "events.csv")
    pa.csv.write_csv(pa.table(tables.users).slice(0, 10), tmp_path / "users.csv")
    settings, reasons = guess_settings(tmp_path)
    assert settings["events"]["timezone"] == "UTC"
    assert settings["events"]["unknown_entities"] == "keep"
    assert "items" not in settings
    assert any("no file lists the items" in reason for reason in reasons)


def test_sparse_recent_events_widen_the_windows(tables: ThreeTables, tmp_path: Path) -> None:
    times = [
        t - timedelta(days=200) if n > 10 else t
        for n, t in enumerate(tables.events["event_time"].to_pylist())
    ]
    tables.events["event_time"] = pa.array(times, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(tables.events), tmp_path / "events.parquet")
    settings, _ = guess_settings(tmp_path)
    assert settings["candidates"]["window_days"] == 365
    assert settings["scoring"]["active_within_days"] == 365


def test_a_folder_without_events_is_told(tables: ThreeTables, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError, match="no tables"):
        guess_settings(empty)
    pq.write_table(pa.table(tables.users), empty / "users.parquet")
    with pytest.raises(SourceError, match="no file looks like a table of events"):
        guess_settings(empty)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder"):
        guess_settings(tmp_path / "nowhere")
