"""The catalogue on SQLite and PostgreSQL: migrations, states, slots, gates, flips."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from features.errors import CallerError, ConflictError, NotFoundError, SettingsError, StorageError
from materialize.generation.catalogue import Block, Catalogue, Fence, GateResult, Generation, Model
from materialize.generation.tables import METADATA, VERSION_TABLE
from materialize.models import tables as model_tables

if TYPE_CHECKING:
    from pathlib import Path

CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


def planned(name: str, model: str = "picks") -> Generation:
    return Generation(
        id=name, model=model, model_id="bundle", feature_cutoff=CUTOFF, k=10, users=100, items=20
    )


def publish(catalogue: Catalogue, fence: Fence, name: str) -> Generation:
    """Take a generation all the way to live."""
    catalogue.begin_generation(fence, planned(name))
    catalogue.claim_slot(fence, name)
    catalogue.record_block(
        fence, Block(generation=name, number=0, path="x.parquet", users=1, rows=10, sha256="ab", accepted=1)
    )
    catalogue.move_generation(fence, name, "validated", rows=10)
    catalogue.complete_flip(catalogue.begin_flip(fence, name, reason="published"))
    return catalogue.generation(name)


def test_the_migrations_make_the_tables_that_the_code_names(database_url: str) -> None:
    Catalogue.open(database_url)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                # Indices with a condition are declared in the migration alone.
                "include_object": lambda _o, name, kind, _r, _c: (
                    kind != "index" or not name.startswith("prescore_one")
                ),
            },
        )
        assert model_tables.ALIASES.metadata is METADATA
        differences = compare_metadata(context, METADATA)
        names = sa.inspect(connection).get_table_names()
    engine.dispose()
    assert differences == []
    assert all(name.startswith("prescore_") for name in names)


def test_many_open_an_empty_database_at_once(database_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(Catalogue.open, [database_url] * 6))
    assert [c.generations("picks") for c in opened] == [[]] * 6


def test_a_newer_catalogue_is_refused(database_url: str) -> None:
    Catalogue.open(database_url)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StorageError, match="newer Prescore"):
        Catalogue.open(database_url)


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://u:secret-word@h/d", "postgresql+nothing://u:secret-word@h/d"]
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Catalogue.open(url)
    assert "secret-word" not in str(caught.value)


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Catalogue.open("postgresql+psycopg://u:secret-word@127.0.0.1:1/d")
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret-word" not in str(caught.value)
    (tmp_path / "file").write_text("no database")
    with pytest.raises(StorageError):
        Catalogue.open(f"sqlite:///{tmp_path / 'file'}")


def test_a_generation_goes_its_way_and_comes_back_as_it_was_stored(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    generation = publish(catalogue, fence, "one")
    assert (generation.state, generation.slot, generation.rows, generation.feature_cutoff) == (
        "live",
        "a",
        10,
        CUTOFF,
    )
    assert generation.published_at is not None
    assert abs(dt.datetime.now(dt.UTC) - generation.published_at) < dt.timedelta(minutes=1)
    assert catalogue.live_generation("picks") == generation
    assert catalogue.find_generation("two") is None
    (flip,) = catalogue.flips("picks")
    assert (flip.generation, flip.previous, flip.fence) == ("one", "", fence.token)
    assert flip.completed_at is not None


def test_generations_alternate_between_the_slots(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    publish(catalogue, fence, "one")
    publish(catalogue, fence, "two")
    assert [(g.id, g.state, g.slot) for g in catalogue.generations("picks")] == [
        ("two", "live", "b"),
        ("one", "retired", "a"),
    ]
    publish(catalogue, fence, "three")
    assert [(g.id, g.state, g.slot) for g in catalogue.generations("picks")] == [
        ("three", "live", "a"),
        ("two", "retired", "b"),
        ("one", "retired", None),
    ]


def test_blocks_count_as_not_loaded_once_the_slot_was_taken(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    catalogue.begin_generation(fence, planned("one"))
    catalogue.claim_slot(fence, "one")
    block = Block(generation="one", number=0, path="x", users=1, rows=10, sha256="ab", accepted=1)
    catalogue.record_block(fence, block)
    assert catalogue.claim_slot(fence, "one").slot == "a"
    assert catalogue.blocks("one") == [block]
    catalogue.begin_generation(fence, planned("two"))
    catalogue.claim_slot(fence, "two")
    assert catalogue.generation("one").slot is None
    catalogue.claim_slot(fence, "one")
    assert [b.accepted for b in catalogue.blocks("one")] == [None]


def test_illegal_ways_are_refused(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    catalogue.begin_generation(fence, planned("one"))
    with pytest.raises(CallerError, match="cannot become live"):
        catalogue.begin_flip(fence, "one", reason="too early")
    with pytest.raises(CallerError, match="by a flip"):
        catalogue.move_generation(fence, "one", "live")
    catalogue.move_generation(fence, "one", "rejected", reason="failed churn")
    with pytest.raises(CallerError, match=r"is rejected \(failed churn\) and cannot become live"):
        catalogue.begin_flip(fence, "one", reason="never")
    assert catalogue.begin_generation(fence, planned("one")).reason == ""
    live = publish(catalogue, fence, "two")
    with pytest.raises(CallerError, match="is live"):
        catalogue.begin_generation(fence, planned(live.id))
    with pytest.raises(CallerError, match="is live"):
        catalogue.forget_generation(fence, live.id)
    with pytest.raises(NotFoundError):
        catalogue.generation("three")
    with pytest.raises(NotFoundError):
        catalogue.model("unknown")


def test_the_database_itself_holds_that_one_is_live(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    publish(catalogue, fence, "one")
    catalogue.begin_generation(fence, planned("two"))
    with pytest.raises(sa.exc.IntegrityError), catalogue._database.write() as connection:
        connection.execute(sa.text("UPDATE prescore_generations SET state = 'live'"))


def test_gate_results_replace_those_of_an_earlier_attempt(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    catalogue.begin_generation(fence, planned("one"))
    failed = GateResult(gate="churn", measured=0.99, allowed="at most 0.95", verdict="failed")
    passed = GateResult(gate="rows", measured=None, allowed="at most 0", verdict="passed", reason="nothing")
    catalogue.record_gates(fence, "one", [failed, passed])
    again = GateResult(gate="churn", measured=0.1, allowed="at most 0.95", verdict="passed")
    catalogue.record_gates(fence, "one", [again])
    assert catalogue.gate_results("one") == [again, passed]
    catalogue.forget_generation(fence, "one")
    assert catalogue.gate_results("one") == []


def test_a_model_is_registered_once(catalogue: Catalogue) -> None:
    again = Model(id="bundle", name="other", path="elsewhere", schema_hash="1")
    assert catalogue.register_model(again).name == "picks"
    assert [m.id for m in catalogue.models("picks")] == ["bundle"]


def test_models_have_slots_of_their_own(catalogue: Catalogue) -> None:
    publish(catalogue, catalogue.acquire_fence("picks", "test"), "one")
    other = catalogue.acquire_fence("others", "test")
    catalogue.begin_generation(other, planned("two", model="others"))
    assert catalogue.claim_slot(other, "two").slot == "a"
    assert catalogue.generation("one").slot == "a"


def test_writes_without_the_fence_are_refused(catalogue: Catalogue) -> None:
    fence = catalogue.acquire_fence("picks", "test")
    publish(catalogue, fence, "one")
    catalogue.release_fence(fence)
    with pytest.raises(ConflictError):
        catalogue.begin_generation(fence, planned("two"))
    with pytest.raises(ConflictError):
        catalogue.check_fence(fence)
