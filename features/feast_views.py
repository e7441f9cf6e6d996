"""The entities and feature views that Prescore registers in Feast, as values; nothing is read or written here.

==================== ============ ========================= ========= ====================================
view                 entities     fields                    read      source
==================== ============ ========================= ========= ====================================
``user_features``    user         user features             both      ``user.parquet`` of all builds
``item_features``    item         item features             offline   ``item.parquet``
``<group>_history``  user, group  affinity features         offline   ``affinity_<group>.parquet``
``pair_history``     user, item   pair features             offline   ``pair.parquet``
``affinity_<group>`` user         lists                     online    written by ``features materialize``
``pair_features``    user         lists                     online    likewise
``<model>_a``, _b    user         item_ids, scores,         online    written with each generation
                                  generation
==================== ============ ========================= ========= ====================================

Offline, affinity and pair features are rows with two keys; online they are lists under the user's key,
so that one key holds all there is to know of a user. Two names keep the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mmh3
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, FeastType, Float32, Int64, String

from features.errors import SettingsError
from features.feature_build import ITEMS, PAIRS, USERS, affinity_file
from features.online import USER_VIEW, FieldKind, online_views
from features.schema import (
    EVENT_TIMESTAMP,
    ITEM,
    ITEM_ID,
    PAIR,
    USER,
    USER_ID,
    FeatureColumn,
    FeatureSchema,
    affinity,
)

if TYPE_CHECKING:
    from pathlib import Path

ITEM_VIEW, PAIR_HISTORY = "item_features", "pair_history"
_KINDS: dict[FieldKind, FeastType] = {
    "float": Float32,
    "string": String,
    "float_list": Array(Float32),
    "string_list": Array(String),
    "int64_list": Array(Int64),
}


def history_view(group: str) -> str:
    """Offline view of a group's affinity features."""
    return f"{group}_history"


def entities_of(schema: FeatureSchema) -> dict[str, Entity]:
    """User, item and one entity per group; the name is the join key."""
    kinds = {"int64": ValueType.INT64, "string": ValueType.STRING}
    entities = {
        USER_ID: Entity(name=USER_ID, join_keys=[USER_ID], value_type=kinds[schema.user_id_type]),
        ITEM_ID: Entity(name=ITEM_ID, join_keys=[ITEM_ID], value_type=kinds[schema.item_id_type]),
    }
    for group in schema.groups:
        entities[group] = Entity(name=group, join_keys=[group], value_type=ValueType.STRING)
    return entities


def offline_views(schema: FeatureSchema, folder: Path) -> list[FeatureView]:
    """Views over the files of every build in a folder of builds; for training, and for a look into the past."""
    entities = entities_of(schema)
    views = [
        _view(schema, USER_VIEW, [entities[USER_ID]], schema.of(USER), folder / "*" / USERS, online=True),
        _view(schema, ITEM_VIEW, [entities[ITEM_ID]], schema.of(ITEM), folder / "*" / ITEMS),
    ]
    for group in schema.groups:
        path = folder / "*" / affinity_file(group)
        keys = [entities[USER_ID], entities[group]]
        views.append(_view(schema, history_view(group), keys, schema.of(affinity(group)), path))
    keys = [entities[USER_ID], entities[ITEM_ID]]
    views.append(_view(schema, PAIR_HISTORY, keys, schema.of(PAIR), folder / "*" / PAIRS))
    return [view for view in views if view.features]


def online_list_views(schema: FeatureSchema, folder: Path) -> list[FeatureView]:
    """The list-typed views of affinity and pair features; ``folder`` is where no batch file of theirs lies."""
    user = entities_of(schema)[USER_ID]
    views = []
    for view in online_views(schema):
        if view.name != USER_VIEW:
            fields = [Field(name=name, dtype=_KINDS[kind]) for name, kind in view.fields.items()]
            views.append(_online_only(view.name, user, fields, schema, folder))
    return views


def prediction_views(schema: FeatureSchema, model: str, folder: Path) -> list[FeatureView]:
    """The two slots of a model: ``<model>_a`` and ``<model>_b``."""
    ids = Int64 if schema.item_id_type == "int64" else String
    return [
        _online_only(
            f"{model}_{slot}",
            entities_of(schema)[USER_ID],
            [
                Field(name="item_ids", dtype=Array(ids)),
                Field(name="scores", dtype=Array(Float32)),
                Field(name="generation", dtype=String),
            ],
            schema,
            folder,
        )
        for slot in ("a", "b")
    ]


def check_collisions(views: list[FeatureView]) -> None:
    """Refuse views whose fields would overwrite one another in a user's hash.

    Feast names a field by four bytes, MurmurHash3 of ``view:feature``; a few hundred features rarely meet,
    but nothing else would notice.

    Raises:
        SettingsError: Naming the two features.
    """
    taken: dict[int, str] = {}
    for view in views:
        if not view.online:
            continue
        for feature in view.features:
            name = f"{view.name}:{feature.name}"
            other = taken.setdefault(mmh3.hash(name, signed=False), name)
            if other != name:
                raise SettingsError(
                    f"the features {other} and {name} have the same place in the store",
                    expected="different hashes of view:feature, by which Feast names a field",
                    fix="rename one of the columns, or the model",
                )


def _view(
    schema: FeatureSchema,
    name: str,
    keys: list[Entity],
    columns: list[FeatureColumn],
    path: Path,
    *,
    online: bool = False,
) -> FeatureView:
    fields = [Field(name=c.name, dtype=Float32 if c.vocabulary is None else String) for c in columns]
    return FeatureView(
        name=name,
        entities=keys,
        schema=[*_key_fields(keys, schema), *fields],
        source=FileSource(name=f"{name}_files", path=str(path), timestamp_field=EVENT_TIMESTAMP),
        online=online,
    )


def _online_only(
    name: str, user: Entity, fields: list[Field], schema: FeatureSchema, folder: Path
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[user],
        schema=[*_key_fields([user], schema), *fields],
        source=FileSource(
            name=f"{name}_files",
            path=str(folder / f"{name}.parquet"),
            timestamp_field=EVENT_TIMESTAMP,
            description="Online only: rows go straight into the store, there is no such file.",
        ),
        online=True,
    )


def _key_fields(keys: list[Entity], schema: FeatureSchema) -> list[Field]:
    kinds = {"int64": Int64, "string": String}
    types = {USER_ID: kinds[schema.user_id_type], ITEM_ID: kinds[schema.item_id_type]}
    return [Field(name=key.name, dtype=types.get(key.name, String)) for key in keys]
