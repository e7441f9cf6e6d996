"""What a table may be, and how its faults are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from features.errors import SettingsError, SourceError, StorageError
from features.sources import Sources, default_cutoff, open_sources
from tests.features.conftest import CUTOFF

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.features.conftest import ThreeTables

NOW = CUTOFF + timedelta(days=30)


def read(tables: ThreeTables) -> tuple[pa.Table, Sources]:
    with open_sources(tables.write().settings, scratch=tables.folder / "scratch", now=NOW) as sources:
        return sources.events.order_by("event_time", "user_id", "item_id").to_pyarrow(), sources


def spoil(column: str, row: int, value: Any) -> Callable[[ThreeTables], None]:
    def change(tables: ThreeTables) -> None:
        values = tables.events[column].to_pylist()
        values[row] = value
        tables.events[column] = pa.array(values, tables.events[column].type)

    return change


def test_sound_tables_come_in_one_form(tables: ThreeTables) -> None:
    events, sources = read(tables)
    assert events.schema.names == ["user_id", "item_id", "event_time", "value"]
    assert events.schema.types == [pa.int64(), pa.int64(), pa.timestamp("us", "UTC"), pa.float64()]
    assert events.num_rows == 600
    assert pc.sum(events["value"]).as_py() == pytest.approx(pc.sum(tables.events["amount"]).as_py())
    assert sources.report.rows_kept == {"events": 600, "users": 32, "items": 22}
    assert not sources.report.findings
    assert not list((tables.folder / "scratch").iterdir())


def _rename(tables: ThreeTables) -> None:
    tables.events["userid"] = tables.events.pop("user_id")


def _empty(role: str) -> Callable[[ThreeTables], None]:
    def change(tables: ThreeTables) -> None:
        setattr(tables, role, {name: column.slice(0, 0) for name, column in getattr(tables, role).items()})

    return change


def _one(column: str) -> Callable[[ThreeTables], None]:
    def change(tables: ThreeTables) -> None:
        tables.events[column] = pa.array([tables.events[column][0].as_py()] * len(tables.events[column]))

    return change


def _twice(role: str) -> Callable[[ThreeTables], None]:
    def change(tables: ThreeTables) -> None:
        table = getattr(tables, role)
        for name, column in table.items():
            table[name] = pa.concat_arrays([column, column.slice(0, 1)])

    return change


def _naive(tables: ThreeTables) -> None:
    tables.events["event_time"] = tables.events["event_time"].cast(pa.timestamp("us"))


def _text_time(tables: ThreeTables) -> None:
    tables.events["event_time"] = pa.array(["yesterday"] * 600)


def _number_time(tables: ThreeTables) -> None:
    tables.events["event_time"] = pc.cast(
        pc.cast(tables.events["event_time"], pa.timestamp("s", "UTC")), pa.int64()
    )


def _text_users(tables: ThreeTables) -> None:
    tables.users["user_id"] = pa.array([f"u{n}" for n in range(32)])


def _infinite_price(tables: ThreeTables) -> None:
    tables.items["price"] = pa.array([float("inf"), *tables.items["price"].to_pylist()[1:]])


def _misspelt_group(tables: ThreeTables) -> None:
    tables.item_settings["groups"] = ("shelve",)


def _unknown_strict(tables: ThreeTables) -> None:
    spoil("user_id", 0, 999)(tables)
    tables.event_settings["unknown_entities"] = "error"


def _float_ids(tables: ThreeTables) -> None:
    tables.events["item_id"] = pc.add(tables.events["item_id"].cast(pa.float64()), 0.5)


def _no_file(tables: ThreeTables) -> None:
    tables.event_settings["timezone"] = "Mars/Olympus"
    _naive(tables)


FAULTS: dict[str, tuple[Callable[[ThreeTables], None], list[str]]] = {
    "misspelt column": (_rename, ["no column 'user_id'", "did you mean 'userid'", "[events]"]),
    "misspelt group": (_misspelt_group, ["set 'shelf' in groups in [items]"]),
    "text as time": (_text_time, ["no readable time", "'yesterday'", "bad_rows"]),
    "time without a zone": (_naive, ["no zone", "events.timezone"]),
    "number as time": (_number_time, ["holds numbers", "time_unit = 's'"]),
    "unknown zone": (_no_file, ["unknown zone", "Mars/Olympus"]),
    "time in the future": (spoil("event_time", 3, NOW + timedelta(days=3)), ["1 events", "future"]),
    "no id": (spoil("item_id", 3, None), ["no user or item id", "item_id=None"]),
    "NaN": (spoil("amount", 3, float("nan")), ["finite", "value=nan"]),
    "infinity": (spoil("amount", 3, float("-inf")), ["finite", "value=-inf"]),
    "huge value": (spoil("amount", 3, -1e300), ["finite", "value=-1e+300"]),
    "no value": (spoil("amount", 3, None), ["finite", "value=None"]),
    "repeated user": (_twice("users"), ["repeat an id", "2 times", "one row per user_id"]),
    "repeated item": (_twice("items"), ["repeat an id", "one row per item_id"]),
    "empty events": (_empty("events"), ["there are no events"]),
    "empty users": (_empty("users"), ["the users are empty"]),
    "empty items": (_empty("items"), ["the items are empty"]),
    "one user": (_one("user_id"), ["all of one user"]),
    "one item": (_one("item_id"), ["all of one item"]),
    "mixed ids": (_text_users, ["mixed type", "events.user: whole numbers", "users.id: text"]),
    "broken ids": (_float_ids, ["cannot be an id", "events.item"]),
    "infinite own column": (_infinite_price, ["'price' of the items", "infinite"]),
    "unknown users, strictly": (_unknown_strict, ["1 events are of users", "999"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_says_what_was_expected_what_came_and_what_to_do(tables: ThreeTables, fault: str) -> None:
    change, told = FAULTS[fault]
    change(tables)
    with pytest.raises(SourceError) as caught:
        read(tables)
    for words in told:
        assert words in str(caught.value)
    assert caught.value.expected
    assert caught.value.fix or caught.value.got


HEADER = "user_id,item_id,event_time,amount\n"
BROKEN = {
    "nothing": (b"", "no usable header"),
    "one column": (b"user_id\n1\n", "no column 'item_id'"),
    "a name twice": (b"user_id,user_id,event_time\n1,2,2024-01-01\n", "no usable header"),
    "too many fields": (
        HEADER.encode() + b"1,2,2024-01-01T00:00:00Z,3,4\n",
        "Expected Number of Columns: 4 Found: 5",
    ),
    "too few fields": (HEADER.encode() + b"1,2\n", "Expected Number of Columns: 4 Found: 2"),
    "not UTF-8": (HEADER.encode() + b"\xff\xfe,2,2024-01-01T00:00:00Z,3\n", "cannot be read"),
    "no number": (HEADER.encode() + b"1,2,2024-01-01T00:00:00Z,much\n", "no finite number"),
    "endless time": (HEADER.encode() + b"1,2,infinity,3\n", "such as infinity"),
    "far time": (HEADER.encode() + b"1,2,99999-01-01T00:00:00Z,3\n", "no readable time"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_text_is_told(tables: ThreeTables, fault: str) -> None:
    broken, told = BROKEN[fault]
    tables.write()
    path = tables.folder / "events.csv"
    path.write_bytes(broken)
    settings = tables.settings
    changed = settings.__class__(
        settings.events.model_copy(update={"path": str(path)}), settings.users, settings.items,
        settings.candidates, settings.features,
    )  # fmt: skip
    with pytest.raises(SourceError) as caught, open_sources(changed, now=NOW):
        pass
    assert told in str(caught.value)


@pytest.mark.parametrize(("limit", "error"), [("2 apples", SettingsError), ("1MB", StorageError)])
def test_a_memory_limit_that_does_not_do_is_told(
    tables: ThreeTables, limit: str, error: type[Exception]
) -> None:
    tables.feature_settings["memory_limit"] = limit
    with pytest.raises(error, match="memory_limit"), open_sources(tables.write().settings, now=NOW):
        pass


def test_damaged_parquet_is_told(tables: ThreeTables) -> None:
    path = tables.write().folder / "events.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match="intact Parquet") as caught, open_sources(tables.settings, now=NOW):
        pass
    assert "LINE 1" not in str(caught.value)


def test_a_path_that_names_nothing_is_told(tables: ThreeTables) -> None:
    tables.write()
    (tables.folder / "events.parquet").unlink()
    with pytest.raises(SourceError, match="cannot be found"), open_sources(tables.settings, now=NOW):
        pass


def test_rows_are_left_out_and_counted_as_the_settings_say(tables: ThreeTables) -> None:
    spoil("amount", 0, float("nan"))(tables)
    spoil("event_time", 1, NOW + timedelta(days=3))(tables)
    spoil("user_id", 2, 999)(tables)
    spoil("item_id", 3, 999)(tables)
    spoil("amount", 4, -5.0)(tables)
    for name, column in tables.events.items():
        tables.events[name] = pa.concat_arrays([column, column.slice(10, 2)])
    tables.event_settings |= {"bad_rows": "drop", "min_value": 0.0}
    events, sources = read(tables)
    assert events.num_rows == 595
    assert {(f.reason, f.rows) for f in sources.report.findings} == {
        ("value missing or no finite number", 1),
        ("time in the future", 1),
        ("unknown user", 1),
        ("unknown item", 1),
        ("value below 0", 1),
        ("repeated", 2),
    }


def test_repeated_and_unknown_events_can_be_kept(tables: ThreeTables) -> None:
    spoil("user_id", 2, 999)(tables)
    for name, column in tables.events.items():
        tables.events[name] = pa.concat_arrays([column, column.slice(10, 2)])
    tables.event_settings |= {"duplicates": "keep", "unknown_entities": "keep"}
    events, sources = read(tables)
    assert events.num_rows == 602
    assert not sources.report.findings


def test_awkward_ids_are_ids(tables: ThreeTables) -> None:
    awkward = [
        "a/b",
        'it\'s "quoted"',
        " space d ",
        "🛒🥖",
        "x" * 512,
        "né",
        "00123",
        "-",
        "null",
        "a,b;c\td",
    ]
    names = [awkward[n % 10] for n in range(600)]
    tables.events["user_id"] = pa.array(names)
    tables.users = {"user_id": pa.array(awkward)}
    events, sources = read(tables)
    assert set(events["user_id"].to_pylist()) == set(awkward)
    assert sources.user_id_type == "string"
    assert sources.item_id_type == "int64"


def test_an_id_of_more_than_512_bytes_is_refused(tables: ThreeTables) -> None:
    tables.events["user_id"] = pa.array(["é" * 257] * 300 + ["b"] * 300)
    tables.users = {"user_id": pa.array(["b"])}
    with pytest.raises(SourceError, match="512 bytes"):
        read(tables)


def as_text(tables: ThreeTables, folder: Path, delimiter: str = ",", ending: str = ".csv") -> dict[str, str]:
    paths = {}
    for role in ("events", "users", "items"):
        table = pa.table(getattr(tables, role))
        if "event_time" in table.column_names:
            stamps = [t.isoformat() for t in table["event_time"].to_pylist()]
            table = table.set_column(table.column_names.index("event_time"), "event_time", pa.array(stamps))
        path = folder / f"{role}{ending}"
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=delimiter, quoting_style="needed"))
        paths[role] = str(path)
    return paths


@pytest.mark.parametrize(
    ("delimiter", "ending"), [(",", ".csv"), (";", ".csv"), ("\t", ".tsv"), ("|", ".txt")]
)
def test_text_files_mean_the_same_as_parquet(tables: ThreeTables, delimiter: str, ending: str) -> None:
    expected, _ = read(tables)
    paths = as_text(tables, tables.folder, delimiter, ending)
    settings = tables.settings
    text = settings.__class__(
        settings.events.model_copy(update={"path": paths["events"]}),
        settings.users.model_copy(update={"path": paths["users"]}),
        settings.items.model_copy(update={"path": paths["items"]}),
        settings.candidates,
        settings.features,
    )
    with open_sources(text, now=NOW) as sources:
        events = sources.events.order_by("event_time", "user_id", "item_id").to_pyarrow()
        assert sources.user_id_type == "int64"
        own = sources.users.table.schema()
        assert own["own_age"].is_floating()
        assert own["own_town"].is_string()
    assert events.equals(expected)


def test_ids_of_text_files_keep_their_leading_zeros(tables: ThreeTables) -> None:
    for table in (tables.events, tables.users):
        table["user_id"] = pa.array([f"{n:05}" for n in table["user_id"].to_pylist()])
    paths = as_text(tables.write(), tables.folder)
    settings = tables.settings
    text = settings.__class__(
        settings.events.model_copy(update={"path": paths["events"]}),
        settings.users.model_copy(update={"path": paths["users"]}),
        settings.items,
        settings.candidates,
        settings.features,
    )
    with open_sources(text, now=NOW) as sources:
        assert sources.user_id_type == "string"
        assert "00007" in sources.events.user_id.to_pyarrow().to_pylist()


def test_naive_times_are_read_in_the_zone_of_the_settings(tables: ThreeTables) -> None:
    expected, _ = read(tables)
    _naive(tables)
    tables.event_settings["timezone"] = "Asia/Tokyo"
    events, _ = read(tables)
    shift = pc.subtract(expected["event_time"], events["event_time"])
    assert set(shift.to_pylist()) == {timedelta(hours=9)}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_count_from_1970_in_the_unit_of_the_settings(tables: ThreeTables, unit: str) -> None:
    expected, _ = read(tables)
    tables.events["event_time"] = (
        tables.events["event_time"].cast(pa.timestamp(unit, "UTC"), safe=False).cast(pa.int64())
    )
    tables.event_settings["time_unit"] = unit
    events, _ = read(tables)
    assert events.equals(expected)


def test_typed_headers_are_understood(tables: ThreeTables) -> None:
    table = pa.table({**tables.events, "event_time": pa.array(range(600), pa.int64())})
    table = table.rename_columns(["user_id:token", "item_id:token", "event_time:float", "amount:float"])
    path = tables.write().folder / "shop.inter"
    pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter="\t", quoting_style="none"))
    settings = tables.settings
    events = settings.events.model_copy(update={"path": str(path), "time_unit": "s"})
    typed = settings.__class__(events, settings.users, settings.items, settings.candidates, settings.features)
    with open_sources(typed, now=NOW) as sources:
        assert sources.last_event == datetime.fromtimestamp(599, UTC)


def test_a_folder_or_a_glob_of_files_is_one_table(tables: ThreeTables) -> None:
    expected, _ = read(tables)
    parts = tables.folder / "parts"
    parts.mkdir()
    whole = pa.table(tables.events)
    pq.write_table(whole.slice(0, 250), parts / "a.parquet")
    pq.write_table(whole.slice(250), parts / "b.parquet")
    (parts / "_SUCCESS").touch()
    settings = tables.settings
    for path in (str(parts), str(parts / "*.parquet")):
        events = settings.events.model_copy(update={"path": path})
        several = settings.__class__(
            events, settings.users, settings.items, settings.candidates, settings.features
        )
        with open_sources(several, now=NOW) as sources:
            assert sources.events.order_by("event_time", "user_id", "item_id").to_pyarrow().equals(expected)


def test_users_and_items_may_have_no_table(tables: ThreeTables) -> None:
    tables.write()
    settings = tables.settings
    bare = settings.__class__(
        settings.events,
        settings.users.model_copy(update={"path": ""}),
        settings.items.model_copy(update={"path": ""}),
        settings.candidates,
        settings.features,
    )
    with open_sources(bare, now=NOW) as sources:
        assert sources.users.rows == 30
        assert not sources.items.listed


def test_the_default_cutoff_is_the_midnight_after_the_last_event_that_has_happened(
    tables: ThreeTables,
) -> None:
    spoil("event_time", 0, datetime(2024, 3, 11, 0, 0, 1, tzinfo=UTC))(tables)
    with open_sources(tables.write().settings, now=NOW) as sources:
        assert default_cutoff(sources, now=NOW) == datetime(2024, 3, 12, tzinfo=UTC)
        soon = datetime(2024, 3, 11, 5, 30, tzinfo=UTC)
        assert default_cutoff(sources, now=soon) == datetime(2024, 3, 11, tzinfo=UTC)
