"""A build is a pure function of its tables, complete or not there, and blind to the future."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import passes
from features.build import build_features
from features.errors import NotFoundError, SourceError, StorageError
from features.feature_build import FeatureBuild, HashRange, block_range, list_builds
from features.schema import FeatureSchema, user_hash
from tests.features.conftest import CUTOFF, ThreeTables, make_tables


def hashes(build: FeatureBuild) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in build.tables.items()}


def test_the_files_keep_the_contract(tables: ThreeTables, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    build = build_features(
        tables.write().settings, CUTOFF, tmp_path / "out", progress=lambda *step: steps.append(step)
    )
    assert build.path == tmp_path / "out" / "20240301T000000Z"
    assert build.cutoff == CUTOFF
    assert [done for _, done, _ in steps] == list(range(steps[0][2]))
    stamp = pa.timestamp("us", "UTC")
    keys = {
        "user.parquet": [("user_hash", pa.uint32()), ("user_id", pa.int64()), ("last_event", stamp)],
        "item.parquet": [("item_id", pa.int64()), ("candidate", pa.bool_()), ("events", pa.int64()),
                         ("title", pa.string()), ("shelf", pa.string())],
        "affinity_shelf.parquet": [("user_hash", pa.uint32()), ("user_id", pa.int64()), ("shelf", pa.string())],
        "pair.parquet": [("user_hash", pa.uint32()), ("user_id", pa.int64()), ("item_id", pa.int64())],
    }  # fmt: skip
    found = {
        "user.parquet": build.read_users(),
        "item.parquet": build.read_items(candidates_only=False),
        "affinity_shelf.parquet": build.read_affinity("shelf"),
        "pair.parquet": build.read_pairs(),
    }
    features = []
    for name, table in found.items():
        fields = [(field.name, field.type) for field in table.schema]
        assert fields[: len(keys[name])] == keys[name]
        assert fields[len(keys[name])] == ("event_timestamp", stamp)
        assert pc.unique(table["event_timestamp"]).to_pylist() == [CUTOFF]
        assert build.rows(name) == table.num_rows
        features += fields[len(keys[name]) + 1 :]
    assert [name for name, _ in features] == build.schema.names
    for (_, kind), column in zip(features, build.schema.columns, strict=True):
        assert kind == (pa.float32() if column.vocabulary is None else pa.string())
    users = found["user.parquet"]
    assert users["user_hash"].to_numpy().tolist() == user_hash(users["user_id"]).tolist()
    for name, order in (
        ("user.parquet", ["user_hash", "user_id"]),
        ("affinity_shelf.parquet", ["user_hash", "user_id", "shelf"]),
        ("pair.parquet", ["user_hash", "user_id", "item_id"]),
        ("item.parquet", ["item_id"]),
    ):
        assert found[name].equals(found[name].sort_by([(key, "ascending") for key in order]))
    assert users.num_rows == 32  # two of them without events
    assert users["last_event"].null_count == 2
    assert build.schema.user_id_type == "int64"
    assert FeatureSchema.from_json(build.schema.to_json()) == build.schema


def test_same_input_same_bytes_whatever_the_order_files_threads_and_passes(
    tables: ThreeTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_features(tables.write().settings, CUTOFF, tmp_path / "one")
    shuffled = pa.table(tables.events).take(pa.array(list(range(599, -1, -1))))
    tables.events = {name: shuffled[name].combine_chunks() for name in shuffled.column_names}
    monkeypatch.setattr(passes, "ROWS_PER_PASS", 250)
    second = build_features(tables.write().settings, CUTOFF, tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    assert hashes(first) == hashes(second)
    assert (first.path / "manifest.json").read_bytes() == (second.path / "manifest.json").read_bytes()


def test_events_that_were_delivered_twice_change_nothing(tables: ThreeTables, tmp_path: Path) -> None:
    once = build_features(tables.write().settings, CUTOFF, tmp_path / "once")
    for name, column in tables.events.items():
        tables.events[name] = pa.concat_arrays([column.slice(300, 200), column])
    twice = build_features(tables.write().settings, CUTOFF, tmp_path / "twice")
    assert hashes(once) == hashes(twice)
    assert once.fingerprint == twice.fingerprint
    assert (once.manifest.dropped, twice.manifest.dropped) == ({}, {"events: repeated": 200})


def test_a_build_is_reused_until_something_it_depends_on_changes(tables: ThreeTables, tmp_path: Path) -> None:
    first = build_features(tables.write().settings, CUTOFF, tmp_path)
    born = (first.path / "manifest.json").stat().st_mtime_ns
    later = [t + timedelta(days=20) if t >= CUTOFF else t for t in tables.events["event_time"].to_pylist()]
    tables.events["event_time"] = pa.array(later, pa.timestamp("us", "UTC"))
    again = build_features(tables.write().settings, CUTOFF, tmp_path)
    assert (again.path / "manifest.json").stat().st_mtime_ns == born, (
        "events after the cut-off change nothing"
    )
    later[later.index(min(later))] = CUTOFF - timedelta(days=1)
    tables.events["event_time"] = pa.array(later, pa.timestamp("us", "UTC"))
    third = build_features(tables.write().settings, CUTOFF, tmp_path)
    assert third.fingerprint != first.fingerprint, "an event that arrives late is seen"
    tables.feature_settings["windows_days"] = (7, 14)
    fourth = build_features(tables.settings, CUTOFF, tmp_path)
    assert "user_events_14d" in fourth.schema.names
    tables.users["age"] = pa.array([1] + [2] * 31)
    fifth = build_features(tables.write().settings, CUTOFF, tmp_path)
    assert len({b.fingerprint for b in (first, third, fourth, fifth)}) == 4
    assert [p.name for p in sorted(tmp_path.iterdir()) if p.name != "tables"] == [
        ".scratch",
        "20240301T000000Z",
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_happens_at_or_after_the_cutoff_is_not_known(tmp_path: Path, seed: int) -> None:
    """The leak check that no timestamp can fool: without the future, every byte is the same."""
    tables, cutoff = make_tables(tmp_path, seed=seed), CUTOFF - timedelta(hours=7 * (seed - 1))
    times = tables.events["event_time"].to_pylist()
    times[0] = cutoff
    tables.events["event_time"] = pa.array(times, pa.timestamp("us", "UTC"))
    whole = build_features(tables.write().settings, cutoff, tmp_path / "whole")
    past = pa.table(tables.events).filter(pc.less(tables.events["event_time"], pa.scalar(cutoff)))
    tables.events = {name: past[name].combine_chunks() for name in past.column_names}
    cut = build_features(tables.write().settings, cutoff, tmp_path / "cut")
    assert hashes(whole) == hashes(cut)
    assert pc.max(whole.read_users()["last_event"]).as_py() < cutoff


def test_within_a_day_only_those_with_new_events_change(tmp_path: Path) -> None:
    """One who registers meanwhile changes nobody else; what is learned from everybody waits for the midnight."""
    tables = make_tables(tmp_path, events=2000)
    early, late = CUTOFF - timedelta(hours=17), CUTOFF - timedelta(hours=6)
    before = build_features(tables.write().settings, early, tmp_path / "out")
    newcomer = {"user_id": 7000, "age": 30, "town": "north"}
    tables.users = {
        name: pa.concat_arrays([values, pa.array([newcomer[name]])]) for name, values in tables.users.items()
    }
    after = build_features(tables.write().settings, late, tmp_path / "out")
    events = pa.table(tables.events)
    times = events["event_time"]
    new = events.filter(pc.and_(pc.greater_equal(times, pa.scalar(early)), pc.less(times, pa.scalar(late))))
    busy = {"user_id": pc.unique(new["user_id"]), "item_id": pc.unique(new["item_id"])}
    assert 0 < len(busy["user_id"]) < 20
    assert 0 < len(busy["item_id"]) < 15

    def others(build: FeatureBuild, file: str) -> pa.Table:
        key = "item_id" if file == "item.parquet" else "user_id"
        rows = pq.read_table(build.file(file)).drop_columns("event_timestamp")
        return rows.filter(pc.invert(pc.is_in(rows[key], value_set=pa.array([7000, *busy[key].to_pylist()]))))

    for file in before.tables:
        rows = others(before, file)
        assert rows.equals(others(after, file)), file
        assert 5 < rows.num_rows < after.rows(file)
    midnight = build_features(tables.settings, CUTOFF, tmp_path / "out")
    ages, shares = "item_age_days", "item_event_share_30d"
    rows, last = after.read_items(), midnight.read_items()
    assert rows[ages].equals(last[ages])
    assert pc.sum(last[shares]).as_py() == pytest.approx(1)
    assert pc.sum(rows[shares]).as_py() > 1


def test_blocks_are_disjoint_and_complete(
    tables: ThreeTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.parquet_writer.ROWS_PER_GROUP", 16)
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    for blocks in (1, 3, 7, 64):
        ranges = [block_range(b, blocks) for b in range(blocks)]
        assert ranges[0].low == 0
        assert ranges[-1].high == 2**32
        for read in (
            build.read_users,
            build.read_pairs,
            lambda h=None, c=None: build.read_affinity("shelf", h, c),
        ):
            parts = pa.concat_tables([read(r) for r in ranges])
            assert parts.equals(read())
            narrow = pa.concat_tables([read(r, ["user_id"]) for r in ranges])
            assert narrow.equals(read(None, ["user_id"]))
    assert build.read_users(HashRange(5, 5)).num_rows == 0


def test_candidates_have_enough_events_in_their_window(tables: ThreeTables, tmp_path: Path) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    events = pa.table(tables.events).to_pandas()
    recent = events[(events.event_time < CUTOFF) & (events.event_time >= CUTOFF - timedelta(days=60))]
    counts = recent.groupby("item_id").size()
    items = build.read_items(candidates_only=False).to_pandas().set_index("item_id")
    assert items.events.to_dict() == {item: int(counts.get(item, 0)) for item in items.index}
    assert set(build.read_items()["item_id"].to_pylist()) == set(counts[counts >= 2].index)


def test_a_damaged_file_is_noticed_and_built_again(tables: ThreeTables, tmp_path: Path) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    path = build.path / "pair.parquet"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(StorageError, match="damaged"):
        FeatureBuild.load(build.path).read_pairs()
    path.write_bytes(bytes(raw[:-1]))
    assert build_features(tables.settings, CUTOFF, tmp_path).read_pairs().num_rows
    (build.path / "manifest.json").write_text("{}")
    with pytest.raises(StorageError, match="manifest"):
        FeatureBuild.load(build.path)


def test_an_empty_window_is_told(tables: ThreeTables, tmp_path: Path) -> None:
    tables.write()
    with pytest.raises(SourceError, match="no event lies before the cut-off"):
        build_features(tables.settings, CUTOFF - timedelta(days=200), tmp_path / "out")
    with pytest.raises(SourceError, match="no item can be recommended"):
        build_features(tables.settings, CUTOFF + timedelta(days=200), tmp_path / "out")
    with pytest.raises(SourceError, match="not a cut-off"):
        build_features(tables.settings, datetime(2024, 3, 1), tmp_path / "out")  # noqa: DTZ001 - what is refused
    assert not list((tmp_path / "out").glob("2*"))
    with pytest.raises(NotFoundError):
        FeatureBuild.load(tmp_path / "out" / "20240301T000000Z")
    assert list_builds(tmp_path / "out") == []


def test_own_columns_become_features_by_what_they_hold(tables: ThreeTables, tmp_path: Path) -> None:
    tables.users["many"] = pa.array([f"value {n}" for n in range(32)])
    tables.users["constant"] = pa.array([1.5] * 32)
    tables.users["events"] = pa.array(range(32))
    tables.users["loyal"] = pa.array([n % 2 == 0 for n in range(32)])
    tables.users["born"] = pa.array([CUTOFF] * 32)
    tables.feature_settings["max_vocabulary"] = 10
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    own = {c.name: c.vocabulary for c in build.schema.columns}
    assert own["user_town"] == ("north", "south")
    assert own["item_shelf"] == ("bread", "fruit", "tea")
    assert own["user_age"] is None
    assert own["user_loyal"] is None
    assert own["user_events_own"] is None, "a standard feature has the name user_events"
    assert not {"user_many", "user_constant", "user_born"} & set(own)
    assert set(build.manifest.left_out) == {"users.many", "users.constant"}
    users = build.read_users().to_pandas().set_index("user_id")
    assert users.user_town[1] == "north"
    assert users.user_age.isna().sum() == 5


def test_string_ids_and_awkward_group_names(tables: ThreeTables, tmp_path: Path) -> None:
    for table in (tables.events, tables.users):
        table["user_id"] = pa.array([f"käufer/{n}" for n in table["user_id"].to_pylist()])
    tables.items["Pair!"] = tables.items.pop("shelf")
    tables.items["user"] = pa.array(["x", "y"] * 11)
    tables.item_settings["groups"] = ("Pair!", "user")
    build = build_features(tables.write().settings, CUTOFF, tmp_path)
    assert build.groups == ["Pair", "group_user"]
    assert build.manifest.groups == {"Pair": "Pair!", "group_user": "user"}
    assert build.schema.user_id_type == "string"
    assert build.read_users()["user_id"].to_pylist()[0].startswith("käufer/")


KILL = """
import features.build_tables, os, signal
features.build_tables._Tables.write_pairs = lambda self: os.kill(os.getpid(), signal.SIGKILL)
"""
FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
"""


@pytest.mark.parametrize(
    ("accident", "told"), [(KILL, ""), (FULL_DISK, "StorageError")], ids=["killed", "full"]
)
def test_an_accident_leaves_what_was_there(
    tables: ThreeTables, tmp_path: Path, accident: str, told: str
) -> None:
    build = build_features(tables.write().settings, CUTOFF, tmp_path / "out")
    tables.users["age"] = pa.array([1] + [2] * 31)
    tables.write()
    script = f"""
import sys
from pathlib import Path
from tests.features.test_build import CUTOFF, build_features, make_tables
{accident}
build_features(make_tables(Path(sys.argv[1])).settings, CUTOFF, Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", script, str(tables.folder), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, check=False, timeout=60, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if told else -signal.SIGKILL)
    assert told in done.stderr
    assert FeatureBuild.load(build.path).fingerprint == build.fingerprint
    assert FeatureBuild.load(build.path).read_pairs().num_rows
    assert [b.cutoff for b in list_builds(tmp_path / "out")] == [CUTOFF]
    again = build_features(tables.settings, CUTOFF, tmp_path / "out")
    assert again.fingerprint != build.fingerprint
    assert not list((tmp_path / "out" / ".scratch").iterdir()), "leftovers are swept"
