"""Activation and rollback: where they land, and how fast."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from features.errors import CallerError, ConflictError, GateRejectedError, NotFoundError, StorageError
from features.feast_repo import open_feature_store
from materialize.generation.artifact import artifact_folder
from materialize.generation.flip import activate, rollback
from materialize.progress import NoProgress
from materialize.publish.live_pointer import LivePointer, pointer_key
from tests.materialize.generation.shop_models import AtStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from materialize.generation.catalogue import Generation
    from tests.materialize.generation.shop_models import World

QUIET = NoProgress()


def generations_served(world: World) -> set[Any]:
    return {row[2] for row in world.served().values()}


def test_a_rollback_is_quick_and_changes_everything(
    world: World, first_and_second: tuple[Generation, Generation]
) -> None:
    first, second = first_and_second
    before = world.slot("a")
    started = time.process_time()
    back = rollback(world.settings, world.catalogue, QUIET, reason="odd lists")
    assert time.process_time() - started < 1
    assert (back.id, back.state) == (first.id, "live")
    assert world.served() == before
    left = world.catalogue.generation(second.id)
    assert (left.state, left.reason) == ("rejected", "rolled back: odd lists")


@pytest.mark.usefixtures("first")
def test_feast_follows_the_flip(world: World, client: Client) -> None:
    steps: list[Callable[[], Generation]] = [
        lambda: world.publish(client, seed=2),
        lambda: rollback(world.settings, world.catalogue, QUIET),
    ]
    for step in steps:
        generation = step()
        with open_feature_store(world.settings) as store:
            service = store.get_feature_service("picks")
            found = store.get_online_features(service, entity_rows=[{"user_id": 1}, {"user_id": 2}]).to_dict()
        served = world.slot(generation.slot or "")
        assert found["generation"] == [generation.id] * 2
        assert found["item_ids"] == [served[1][0], served[2][0]]
        assert found["scores"] == [served[1][1], served[2][1]]


def test_after_two_bad_runs_a_second_rollback_goes_further_back(
    world: World, client: Client, first_and_second: tuple[Generation, Generation]
) -> None:
    good, lists = first_and_second[0], world.slot("a")
    world.publish(client, seed=3)  # overwrites the slot of the good one
    assert world.catalogue.generation(good.id).slot is None
    rollback(world.settings, world.catalogue, QUIET)
    told = AtStep(f"load {good.id} again: step", lambda: None)
    back = rollback(world.settings, world.catalogue, told)
    assert told.done
    assert back.id == good.id
    assert world.served() == lists
    with pytest.raises(NotFoundError, match="no earlier generation"):
        rollback(world.settings, world.catalogue, QUIET)
    assert [g.state for g in world.catalogue.generations("picks")] == ["rejected", "rejected", "live"]


def test_what_was_rolled_back_returns_only_by_an_override(
    world: World, client: Client, first_and_second: tuple[Generation, Generation]
) -> None:
    bad = first_and_second[1]
    rollback(world.settings, world.catalogue, QUIET)
    with pytest.raises(GateRejectedError, match="rolled_back"):
        world.publish(client, seed=2)
    assert world.publish(client, seed=2, overrides={"rolled_back": "it was right after all"}).id == bad.id


@pytest.mark.usefixtures("first")
def test_nothing_lands_on_a_rejected_or_unknown_generation(world: World, client: Client) -> None:
    with pytest.raises(NotFoundError, match="no earlier generation"):
        rollback(world.settings, world.catalogue, QUIET)
    bad = {"methods": {"model": {"ndcg@10": 0.1}, "popularity": {"ndcg@10": 0.2}}}
    with pytest.raises(GateRejectedError):
        world.publish(client, seed=2, metrics=bad)
    rejected = world.catalogue.generations("picks")[0]
    with pytest.raises(CallerError, match=r"is rejected \(failed offline_metric\)"):
        activate(world.settings, world.catalogue, rejected.id, QUIET)
    with pytest.raises(NotFoundError, match="no earlier generation"):
        rollback(world.settings, world.catalogue, QUIET)
    with pytest.raises(NotFoundError, match="no generation 'nonsense'"):
        activate(world.settings, world.catalogue, "nonsense", QUIET)


def test_activation_mends_what_the_store_has_lost(world: World, first: Generation) -> None:
    lists = world.served()
    world.store.flushall()
    activate(world.settings, world.catalogue, first.id, QUIET)
    assert world.served() == lists


def test_a_generation_without_its_artifact_is_not_activated(
    world: World, first_and_second: tuple[Generation, Generation]
) -> None:
    first, second = first_and_second
    (artifact_folder(world.settings, first.id) / "artifact.json").unlink()
    with pytest.raises(StorageError, match="lost its look-up artifact"):
        rollback(world.settings, world.catalogue, QUIET)
    assert generations_served(world) == {second.id}
    assert world.catalogue.generation(second.id).state == "live"


def test_an_older_publisher_never_replaces_a_newer_pointer(
    world: World, first_and_second: tuple[Generation, Generation]
) -> None:
    first = first_and_second[0]
    key = pointer_key("shop", "picks")
    newer = LivePointer.decode(world.store.get(key))  # type: ignore[arg-type]
    raw = LivePointer(
        **{f: getattr(newer, f) for f in newer.__struct_fields__} | {"fence": newer.fence + 100}
    ).encode()
    world.store.set(key, raw)
    with pytest.raises(ConflictError, match="newer publisher"):
        activate(world.settings, world.catalogue, first.id, QUIET)
    assert world.store.get(key) == raw
