"""What a generation will hold, decided before any work: its id, its users, its blocks.

All of it is a pure function of the model bundle, the feature build and the settings, so that a run
that is repeated finds what the first one left.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SourceError
from features.schema import cutoff_name
from materialize.generation.records import Generation

if TYPE_CHECKING:
    from datetime import datetime

    from features.feature_build import FeatureBuild
    from materialize.model_bundle import ModelBundle
    from materialize.settings import ScoringSettings

LEAST_BLOCKS = 8
"""A small generation is still cut into this many blocks, so that several workers share it …"""

LEAST_USERS = 256
"""… of about this many users at least: a task of a few milliseconds is mostly overhead."""

_FORMAT = 1
"""Part of the id: raise it when the same inputs shall give other contents."""


@dataclass(frozen=True)
class Plan:
    """A generation before it is run.

    Attributes:
        generation: Its row as it would be created.
        blocks: Number of equal ranges of the user hash; a block may hold no user.
        active_since: Only users with an event at or after it are precomputed; ``None``: all are.
    """

    generation: Generation
    blocks: int
    active_since: datetime | None


def plan_generation(
    scoring: ScoringSettings,
    build: FeatureBuild,
    bundle: ModelBundle,
    parent: Generation | None = None,
    parent_blocks: int = 0,
) -> Plan:
    """Plan a full generation, or a delta.

    Args:
        scoring: What is precomputed.
        build: Features as of the cut-off.
        bundle: The model.
        parent: What a delta stands on; ``None``: a full generation.
        parent_blocks: Number of its blocks, which a delta takes over.

    Raises:
        SourceError: If there is no user to precompute or no item to recommend.
        StorageError: If the feature build cannot be read.
    """
    since = active_since(scoring, build.cutoff)
    users = active_users(build.read_users(columns=["last_event"]), since).num_rows
    items = build.read_items(columns=["item_id"]).num_rows
    if not users:
        raise SourceError(
            "there is no user to precompute",
            expected=f"users with an event in the {scoring.active_within_days} days before the cut-off {build.cutoff}",
            fix="choose a later cut-off, or raise [scoring] active_within_days (0: all users)",
        )
    if not items:
        raise SourceError(
            "there is no item to recommend",
            expected="an item with enough events before the cut-off",
            fix="lower [candidates] min_events or raise window_days",
        )
    generation = Generation(
        id=generation_id(scoring, build, bundle, parent.id if parent else ""),
        model=bundle.name,
        model_id=bundle.id,
        feature_cutoff=build.cutoff,
        k=scoring.k,
        users=users,
        items=items,
        kind="delta" if parent else "full",
        parent=parent.id if parent else "",
    )
    blocks = parent_blocks if parent else count_blocks(users, scoring.users_per_block)
    return Plan(generation, blocks, since)


def generation_id(
    scoring: ScoringSettings, build: FeatureBuild, bundle: ModelBundle, parent: str = ""
) -> str:
    """The id of a full generation, or of a delta on a parent, of these inputs."""
    identity = {
        "format": _FORMAT,
        "kind": "delta" if parent else "full",
        "parent": parent,
        "model": bundle.name,
        "model_id": bundle.id,
        "features": build.fingerprint,
        "exclude_seen": bundle.exclude_seen,
        # How often deltas are made changes no list.
        **scoring.model_dump(mode="json", exclude={"max_deltas", "max_changed_users", "reserve"}),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{cutoff_name(build.manifest.cutoff)}-{digest}"


def count_blocks(users: int, users_per_block: int) -> int:
    """How many blocks hold about ``users_per_block`` users each."""
    return max(-(-users // users_per_block), min(LEAST_BLOCKS, -(-users // LEAST_USERS)), 1)


def active_since(scoring: ScoringSettings, cutoff: datetime) -> datetime | None:
    """Users with an event at or after this instant are precomputed; ``None``: all are."""
    return cutoff - timedelta(days=scoring.active_within_days) if scoring.active_within_days else None


def active_users(table: pa.Table, since: datetime | None) -> pa.Table:
    """The rows of a user table that are precomputed; users without any event are so only if all are."""
    if since is None:
        return table
    return table.filter(pc.greater_equal(table["last_event"], pa.scalar(since, table["last_event"].type)))
