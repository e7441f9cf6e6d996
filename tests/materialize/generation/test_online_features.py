"""Online features: what the store holds is what the build holds, for Feast and for the look-up service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from features.feast_repo import open_feature_store
from features.online import ITEM_IDS, KEYS
from features.schema import USER
from materialize.generation.online_features import publish_features
from materialize.publish.feast_format import decode_value, entity_key, field_hash, timestamp_field
from tests.materialize.generation.shop_models import open_build

if TYPE_CHECKING:
    from tests.materialize.generation.shop_models import World


def stored(world: World, user: int, view: str, features: list[str]) -> list[Any]:
    key: Any = entity_key(user, world.settings.project)
    names: Any = [field_hash(view, name) for name in features]
    raw: list[Any] = world.store.hmget(key, names)  # type: ignore[assignment]
    return [decode_value(value) for value in raw]


def everything(world: World) -> dict[bytes, object]:
    return {key: world.store.hgetall(key) for key in world.store.scan_iter()}


def test_every_user_has_its_features_in_the_store(world: World) -> None:
    build = open_build(world.settings)
    rows = publish_features(world.settings, build)
    assert rows == {"user_features": 150, "affinity_category": 150, "pair_features": 150}
    names = [c.name for c in build.schema.of(USER)]
    for row in build.read_users().to_pylist()[::20]:
        values = stored(world, row["user_id"], "user_features", names)
        assert values == pytest.approx([row[name] for name in names], nan_ok=True)
    (keys,) = stored(world, 1, "affinity_category", [KEYS])
    assert keys == sorted(
        r["category"] for r in build.read_affinity("category").to_pylist() if r["user_id"] == 1
    )
    (items,) = stored(world, 1, "pair_features", [ITEM_IDS])
    assert items == sorted(r["item_id"] for r in build.read_pairs().to_pylist() if r["user_id"] == 1)


def test_a_feast_client_reads_them(world: World) -> None:
    build = open_build(world.settings)
    publish_features(world.settings, build)
    name = build.schema.of(USER)[0].name
    with open_feature_store(world.settings) as store:
        found = store.get_online_features([f"user_features:{name}"], entity_rows=[{"user_id": 1}]).to_dict()
    assert found[name] == stored(world, 1, "user_features", [name])


def test_doing_it_again_changes_nothing_and_removes_who_left(world: World) -> None:
    build = open_build(world.settings)
    publish_features(world.settings, build)
    before = everything(world)
    name = build.schema.of(USER)[0].name
    gone: Any = entity_key(999, world.settings.project)
    world.store.hset(
        gone, mapping={timestamp_field("user_features"): b"x", field_hash("user_features", name): b"y"}
    )
    publish_features(world.settings, build)
    assert everything(world) == before
