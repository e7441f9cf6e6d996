"""The layout of online features: which view holds which fields.

Light on purpose (no DuckDB, no Feast): the look-up service reads features by this layout. The tables that
fill it are made in :mod:`features.online_tables`.

==================== ============================================================================
view                 fields
==================== ============================================================================
``user_features``    one per user feature: float, or string for a category
``affinity_<group>`` ``keys`` string list, and per feature a float list of the same length
``pair_features``    ``item_ids`` list of ids, and per feature a float list of the same length
==================== ============================================================================

All views have the entity ``user_id``, so a user's fields lie in one hash of the store. A missing number
inside a list is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.schema import PAIR, USER, FeatureColumn, FeatureSchema, affinity

USER_VIEW, PAIR_VIEW = "user_features", "pair_features"
KEYS, ITEM_IDS = "keys", "item_ids"

FieldKind = Literal["float", "string", "float_list", "string_list", "int64_list"]


def affinity_view(group: str) -> str:
    """View of a group's affinity features."""
    return f"affinity_{group}"


@dataclass(frozen=True)
class OnlineView:
    """One view of the entity ``user_id``: kinds of its fields by name, in the order they are written."""

    name: str
    fields: dict[str, FieldKind]


def online_views(schema: FeatureSchema) -> list[OnlineView]:
    """The views of a schema, user first, then affinities by group, then pairs; those without fields are left out."""
    views = []
    if schema.of(USER):
        views.append(
            OnlineView(
                USER_VIEW, {c.name: "float" if c.vocabulary is None else "string" for c in schema.of(USER)}
            )
        )
    for group in schema.groups:
        fields: dict[str, FieldKind] = {KEYS: "string_list"}
        views.append(OnlineView(affinity_view(group), fields | _lists(schema.of(affinity(group)))))
    ids: FieldKind = "int64_list" if schema.item_id_type == "int64" else "string_list"
    keyed: dict[str, FieldKind] = {ITEM_IDS: ids}
    views.append(OnlineView(PAIR_VIEW, keyed | _lists(schema.of(PAIR))))
    return views


def _lists(columns: list[FeatureColumn]) -> dict[str, FieldKind]:
    return {c.name: "float_list" for c in columns}
