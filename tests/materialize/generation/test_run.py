"""Publishing for real: what is served, what a repeated, changed, older or rejected run does."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from features.errors import CallerError, ConflictError, GateRejectedError, SchemaMismatchError
from features.feature_build import ITEMS, MANIFEST, FeatureBuild, FileEntry
from features.schema import FeatureSchema
from materialize.generation import run
from materialize.generation.lineage import Lineage
from materialize.generation.run import check_fit
from materialize.generation.tables import FENCE
from materialize.publish.lookup_artifact import LookupArtifact
from materialize.publish.scored_tables import ScoredTables
from materialize.publish.sql import read
from materialize.scoring import PairScorer
from tests.materialize.generation.shop_models import FIRST_BLOCK, AtStep, open_build, random_bundle

if TYPE_CHECKING:
    from distributed import Client

    from materialize.generation.catalogue import Generation
    from tests.materialize.generation.shop_models import World


def brute_force(world: World, seed: int, k: int) -> dict[int, tuple[list[int], list[float]]]:
    """Lists of all active users, scored in one piece."""
    build, bundle = open_build(world.settings), random_bundle(world.settings, seed)
    bound = PairScorer.from_xgboost(bundle.model_bytes, bundle.schema).bind(build.read_items())
    users = build.read_users()
    since = build.cutoff - dt.timedelta(days=90)
    users = users.filter([last is not None and last >= since for last in users["last_event"].to_pylist()])
    top = bound.top_k(
        users,
        k,
        affinity={g: build.read_affinity(g) for g in build.groups},
        pairs=build.read_pairs(),
        threads=1,
    )
    lists = zip(top.user_ids.to_pylist(), top.item_ids.tolist(), top.scores.tolist(), top.counts, strict=True)
    return {user: (items[:n], scores[:n]) for user, items, scores, n in lists}


def test_a_publication_serves_the_exact_lists_everywhere(world: World, client: Client) -> None:
    generation = world.publish(client)
    assert (generation.state, generation.slot, generation.users, generation.items) == ("live", "a", 135, 60)
    expected = brute_force(world, 1, generation.k)
    assert world.served() == {u: (i, s, generation.id) for u, (i, s) in expected.items()}
    pointer = world.pointer()
    assert pointer is not None
    assert (pointer.generation, pointer.slot, pointer.fence) == (generation.id, "a", generation.fence)
    assert pointer.feature_cutoff == "2024-07-01T00:00:00+00:00"

    rows = read("select * from recommendations order by user_id, rank", world.settings, generation.id)
    assert rows.num_rows == generation.rows == sum(len(items) for items, _ in expected.values())
    assert rows["item_id"].to_pylist() == [item for user in sorted(expected) for item in expected[user][0]]
    assert read("select id, state from generations", world.settings).to_pylist() == [
        {"id": generation.id, "state": "live"}
    ]
    joined = "select count(*) as n from recommendations join items using (item_id) join users using (user_id)"
    assert read(joined, world.settings, generation.id).to_pylist() == [{"n": generation.rows}]

    artifact = LookupArtifact.load(Path(pointer.artifact))
    assert (artifact.generation, artifact.k, len(artifact.catalogue)) == (generation.id, 20, 60)
    assert artifact.default["score"].to_pylist() == sorted(
        artifact.default["score"].to_pylist(), reverse=True
    )
    assert not (world.settings.generations_path / generation.id / "scoring").exists()
    assert {r.verdict for r in world.catalogue.gate_results(generation.id)} == {"passed"}


def test_the_same_run_twice_changes_nothing(world: World, client: Client, first: Generation) -> None:
    before = world.contents()
    assert world.publish(client) == first
    assert world.contents() == before
    assert len(world.catalogue.flips("picks")) == 1


def test_a_run_of_a_retired_generation_brings_it_back(
    world: World, client: Client, first_and_second: tuple[Generation, Generation]
) -> None:
    first, second = first_and_second
    again = world.publish(client)
    assert (again.id, again.state) == (first.id, "live")
    assert world.catalogue.generation(second.id).state == "retired"
    assert {row[2] for row in world.served().values()} == {first.id}


@pytest.mark.usefixtures("first")
def test_a_store_that_was_emptied_is_mended_by_the_same_run(world: World, client: Client) -> None:
    before = world.contents()
    world.store.flushall()
    world.publish(client)
    assert world.contents() == before


def test_another_k_is_another_generation_in_the_other_slot(
    world: World, client: Client, first: Generation
) -> None:
    second = world.publish(client, k=5)
    assert (first.slot, second.slot) == ("a", "b")
    assert first.id != second.id
    assert {len(row[0]) for row in world.served().values()} == {5}
    assert {row[2] for row in world.slot("a").values()} == {first.id}


def test_users_who_left_are_gone_after_the_flip(world: World, client: Client) -> None:
    world.publish(client, active_within_days=0)
    assert len(world.served()) == 150
    world.publish(client, seed=2, active_within_days=0)
    world.publish(client, active_within_days=90)
    assert len(world.served()) == len(world.slot("a")) == 135
    assert {len(world.slot(s)) for s in "ab"} == {135, 150}


def test_items_that_left_the_catalogue_are_in_no_list(
    world: World, client: Client, first: Generation, tmp_path: Path
) -> None:
    listed = Counter(item for items, _, _ in world.served().values() for item in items)
    gone = [item for item, _ in listed.most_common(5)]
    build = without_items(open_build(world.settings), gone, tmp_path)
    second = run.publish_generation(world.settings, build, random_bundle(world.settings, 1), client)
    served = world.served()
    assert (second.items, len(served)) == (first.items - 5, 135)
    assert not {item for items, _, _ in served.values() for item in items} & set(gone)
    query = f"select (select count(*) from recommendations where item_id in ({', '.join(map(str, gone))})) n"
    assert read(query, world.settings, Lineage.of(world.catalogue, second).ids)["n"].to_pylist() == [0]


def without_items(build: FeatureBuild, gone: list[int], folder: Path) -> FeatureBuild:
    """The same features, but that some items can no longer be recommended."""
    copied = Path(shutil.copytree(build.path, folder / build.path.name))
    items = pq.read_table(copied / ITEMS)
    kept = pc.and_(items["candidate"], pc.invert(pc.is_in(items["item_id"], pa.array(gone))))
    place = items.column_names.index("candidate")
    pq.write_table(items.set_column(place, "candidate", kept), copied / ITEMS)
    files = {**build.manifest.files, ITEMS: FileEntry.of(copied / ITEMS, items.num_rows)}
    manifest = build.manifest.model_copy(update={"fingerprint": "0" * 64, "files": files})
    (copied / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return FeatureBuild.load(copied)


def test_a_failing_gate_rejects_and_changes_nothing_that_is_served(world: World, client: Client) -> None:
    good = world.publish(
        client, metrics={"methods": {"model": {"ndcg@10": 0.4}, "popularity": {"ndcg@10": 0.2}}}
    )
    served = world.served()
    bad = {"methods": {"model": {"ndcg@10": 0.1}, "popularity": {"ndcg@10": 0.2}}}
    with pytest.raises(GateRejectedError, match=r"offline_metric 0\.25 \(against the live model\)"):
        world.publish(client, seed=2, metrics=bad)
    rejected = world.catalogue.generations("picks")[0]
    assert (rejected.state, rejected.reason) == ("rejected", "failed offline_metric")
    assert world.served() == served
    assert world.slot("b") == {}  # it was found out before any work
    live = world.publish(client, seed=2, metrics=bad, overrides={"offline_metric": "a new market"})
    assert live.state == "live"
    verdicts = {r.gate: (r.verdict, r.reason) for r in world.catalogue.gate_results(live.id)}
    assert verdicts["offline_metric"] == ("overridden", "a new market")
    assert world.catalogue.generation(good.id).state == "retired"


@pytest.mark.usefixtures("first")
def test_a_gate_on_the_lists_rejects_after_the_work(world: World, client: Client) -> None:
    served = world.served()
    strict = replace(
        world,
        settings=world.settings.model_copy(
            update={"gates": world.settings.gates.model_copy(update={"max_churn": 0.0})}
        ),
    )
    with pytest.raises(GateRejectedError, match="churn"):
        strict.publish(client, seed=2)
    assert world.served() == served
    assert world.publish(client, seed=2).state == "live"  # its blocks are there already


@pytest.mark.usefixtures("first")
def test_a_damaged_file_of_an_earlier_attempt_is_scored_again(world: World, client: Client) -> None:
    strict = replace(
        world,
        settings=world.settings.model_copy(
            update={"gates": world.settings.gates.model_copy(update={"max_churn": 0.0})}
        ),
    )
    with pytest.raises(GateRejectedError):
        strict.publish(client, seed=2)
    rejected = world.catalogue.generations("picks")[0]
    damaged, lost, *_ = [Path(block.path) for block in world.catalogue.blocks(rejected.id)]
    wanted = damaged.read_bytes(), lost.read_bytes()
    damaged.write_bytes(wanted[0][:100])
    lost.unlink()
    assert world.publish(client, seed=2).id == rejected.id
    assert (damaged.read_bytes(), lost.read_bytes()) == wanted
    assert {u: row[0] for u, row in world.served().items()} == {
        u: items for u, (items, _) in brute_force(world, 2, 20).items()
    }


def test_an_older_cutoff_does_not_replace_a_newer_one(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch, first: Generation
) -> None:
    older = older_by_a_day(world, monkeypatch)
    bundle = random_bundle(world.settings, 1)
    with pytest.raises(GateRejectedError, match="cutoff_order 24"):
        run.publish_generation(world.settings, older, bundle, client)
    current = world.catalogue.live_generation("picks")
    assert current is not None
    assert current.id == first.id


def older_by_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> FeatureBuild:
    build = open_build(world.settings)
    return replace(build, manifest=build.manifest.model_copy(update={"cutoff": "20240630T000000Z"}))


def test_a_cutoff_in_the_future_is_refused(world: World, client: Client) -> None:
    build = open_build(world.settings)
    future = replace(build, manifest=build.manifest.model_copy(update={"cutoff": "29990101T000000Z"}))
    with pytest.raises(CallerError, match="future"):
        run.publish_generation(world.settings, future, random_bundle(world.settings, 1), client)


def test_a_model_that_does_not_fit_the_features_is_refused_before_any_work(world: World) -> None:
    build, bundle = open_build(world.settings), random_bundle(world.settings, 1)
    renamed = replace(bundle.schema.columns[0], name="unheard_of")
    other = replace(bundle, schema=FeatureSchema((renamed, *bundle.schema.columns[1:]), "string", "int64"))
    with pytest.raises(
        SchemaMismatchError, match=r"unheard_of is missing; user_id_type is int64, not string"
    ):
        check_fit(build, other)
    check_fit(build, bundle)


def test_an_unknown_or_silent_override_is_refused(world: World, client: Client) -> None:
    with pytest.raises(CallerError, match="no gate 'speed'"):
        world.publish(client, overrides={"speed": "why not"})
    with pytest.raises(CallerError, match="needs a reason"):
        world.publish(client, overrides={"churn": " "})


def test_of_two_publishers_at_once_the_second_is_told_of_the_first(world: World, client: Client) -> None:
    def try_too() -> None:
        with pytest.raises(ConflictError, match=r"published by .* in process \d+"):
            world.publish(client, seed=2)

    made = world.publish(client, progress=AtStep(FIRST_BLOCK, try_too))
    assert made.state == "live"
    assert {row[2] for row in world.served().values()} == {made.id}


@pytest.mark.usefixtures("first")
def test_a_publisher_that_slept_through_its_lease_changes_nothing(world: World, client: Client) -> None:
    newer: list[tuple[str, object]] = []

    def overtake() -> None:
        engine = sa.create_engine(world.settings.catalogue_url)
        with engine.begin() as connection:
            connection.execute(sa.update(FENCE).values(lease_until=dt.datetime(2024, 1, 1, tzinfo=dt.UTC)))
        engine.dispose()
        newer.append((world.publish(client, seed=2).id, world.served()))

    with pytest.raises(ConflictError, match="has lost"):
        world.publish(client, seed=3, progress=AtStep(FIRST_BLOCK, overtake))
    live = world.catalogue.live_generation("picks")
    assert live is not None
    assert [(live.id, world.served())] == newer


def test_retention_keeps_the_live_generation_and_its_predecessors(world: World, client: Client) -> None:
    kept: list[Generation] = [world.publish(client, k=k) for k in (5, 6, 7, 8)][-3:]
    catalogue, tables = world.catalogue, ScoredTables.of(world.settings)
    assert {g.id for g in catalogue.generations("picks")} == {g.id for g in kept}
    assert tables.generations() == sorted(g.id for g in kept)
    assert {p.name for p in world.settings.generations_path.iterdir()} == {g.id for g in kept}
    folders = {p.name for p in (tables.folder / "recommendations" / "data").iterdir()}
    assert folders == {f"generation={g.id}" for g in kept}
