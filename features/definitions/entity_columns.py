"""The entity tables' own columns as features: numbers as they are, text as categories with a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.schema import FeatureColumn, FeatureScope

if TYPE_CHECKING:
    from features.entity_tables import EntityTable


@dataclass(frozen=True)
class OwnColumns:
    """Own columns that became features.

    Attributes:
        features: Feature by the column's name in the entity table.
        left_out: Column of the source → why it is no feature.
    """

    features: dict[str, FeatureColumn]
    left_out: dict[str, str]


def own_columns(
    entities: EntityTable, scope: FeatureScope, max_vocabulary: int, taken: set[str]
) -> OwnColumns:
    """Choose the features among an entity table's own columns.

    A number with one value, or text with one value or more than ``max_vocabulary``, tells nothing and is
    left out. Names are ``user_COLUMN`` and ``item_COLUMN``; ``_own`` is added where a standard feature
    has that name.
    """
    features: dict[str, FeatureColumn] = {}
    left_out: dict[str, str] = {}
    for column, source in entities.own.items():
        values = entities.table[column]
        distinct = values.nunique().to_pyarrow().as_py()
        is_text = values.type().is_string()
        if distinct < 2:
            left_out[source] = "has fewer than two values"
        elif is_text and distinct > max_vocabulary:
            left_out[source] = f"is text with {distinct} values, more than features.max_vocabulary"
        else:
            vocabulary = None
            if is_text:
                found = entities.table.filter(values.notnull()).select(column).distinct().to_pyarrow()[column]
                vocabulary = tuple(sorted(found.to_pylist(), key=str.encode))
            name = f"{scope.kind}_{column.removeprefix('own_')}"
            name += "_own" if name in taken else ""
            features[column] = FeatureColumn(name, scope, vocabulary)
    return OwnColumns(features, left_out)
