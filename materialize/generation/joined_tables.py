"""Writes the tables that scored rows are joined with in SQL: items, users, models, generations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from features.schema import USER_ID
from materialize.generation.plan import active_users
from materialize.publish.scored_tables import ScoredTables

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.plan import Plan
    from materialize.settings import Settings

_TIME = pa.timestamp("us", "UTC")
_MODELS = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("schema_hash", pa.string()),
        ("metrics", pa.string()),
        ("created_at", _TIME),
    ]
)
_GENERATIONS = pa.schema(
    [
        ("id", pa.string()),
        ("model", pa.string()),
        ("model_id", pa.string()),
        ("kind", pa.string()),
        ("parent", pa.string()),
        ("state", pa.string()),
        ("feature_cutoff", _TIME),
        ("k", pa.int64()),
        ("users", pa.int64()),
        ("items", pa.int64()),
        ("rows", pa.int64()),
        ("reason", pa.string()),
        ("created_at", _TIME),
        ("published_at", _TIME),
    ]
)


def replace_entity_tables(settings: Settings, build: FeatureBuild, plan: Plan) -> None:
    """Replace ``items`` (the candidates: item_id, title, group columns) and ``users`` (those that are planned).

    Raises:
        StorageError: If they cannot be written.
    """
    tables = ScoredTables.of(settings)
    tables.replace("items", build.read_items(["item_id", "title", *build.groups, "events"]))
    users = active_users(build.read_users(columns=[USER_ID, "last_event"]), plan.active_since)
    tables.replace("users", users)


def replace_catalogue_tables(settings: Settings, catalogue: Catalogue) -> None:
    """Replace ``models`` and ``generations`` by what the catalogue says now.

    Raises:
        StorageError: If they cannot be written.
    """
    tables = ScoredTables.of(settings)
    models = [
        {f: getattr(m, f) for f in _MODELS.names} | {"metrics": json.dumps(m.metrics, sort_keys=True)}
        for m in catalogue.models(settings.model)
    ]
    generations = [
        {f: getattr(g, f) for f in _GENERATIONS.names} for g in catalogue.generations(settings.model)
    ]
    tables.replace("models", pa.Table.from_pylist(models, _MODELS))
    tables.replace("generations", pa.Table.from_pylist(generations, _GENERATIONS))
