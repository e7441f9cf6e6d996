"""Picks the users that a walk looks up at its end: one precomputed, one to score on demand, one nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.feature_build import HashRange
from features.schema import ITEM_ID, USER_HASH, USER_ID
from materialize.generation.plan import active_since, active_users

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild
    from materialize.settings import ScoringSettings


@dataclass(frozen=True)
class HistoryEntry:
    """An item that a user had before.

    Attributes:
        item_id: Its id, as text.
        title: What people read.
        events: How often.
    """

    item_id: str
    title: str
    events: int


@dataclass(frozen=True)
class ExampleUsers:
    """Users to look up; ids as they stand in a URL before it is encoded.

    Attributes:
        precomputed: The user with the median number of items among those that were scored.
        on_demand: The one that was seen last among those that were not; ``None`` if all were scored.
        unknown: An id that no user has.
        history: The items each of them had, most often first.
    """

    precomputed: str
    on_demand: str | None
    unknown: str
    history: dict[str, list[HistoryEntry]] = field(default_factory=dict)


def pick_examples(scoring: ScoringSettings, build: FeatureBuild) -> ExampleUsers:
    """Choose from a build, always the same ones."""
    users = build.read_users(columns=[USER_ID, USER_HASH, "last_event"])
    scored = active_users(users, active_since(scoring, build.cutoff))
    others = users.filter(pc.invert(pc.is_in(users[USER_ID], scored[USER_ID].combine_chunks())))
    others = others.filter(pc.is_valid(others["last_event"]))
    others = others.sort_by([("last_event", "descending"), (USER_ID, "ascending")])
    counts = build.read_seen().select([USER_ID]).group_by(USER_ID).aggregate([([], "count_all")])
    counts = counts.join(scored.select([USER_ID]), USER_ID, join_type="inner")
    counts = counts.sort_by([("count_all", "ascending"), (USER_ID, "ascending")])
    chosen = (counts if counts.num_rows else scored)[USER_ID]
    precomputed = chosen[len(chosen) // 2].as_py()
    on_demand = others[USER_ID][0].as_py() if others.num_rows else None
    known = [user for user in (precomputed, on_demand) if user is not None]
    return ExampleUsers(
        str(precomputed),
        None if on_demand is None else str(on_demand),
        _unknown(users[USER_ID]),
        {str(user): _history(build, users, user) for user in known},
    )


def _unknown(ids: pa.ChunkedArray) -> str:
    if pa.types.is_integer(ids.type):
        return str(pc.max(ids).as_py() + 1)
    return str(pc.max(ids).as_py()) + "-nobody"


def _history(build: FeatureBuild, users: pa.Table, user: object) -> list[HistoryEntry]:
    row = users.filter(pc.equal(users[USER_ID], user))
    low = row[USER_HASH][0].as_py()
    pairs = build.read_pairs(HashRange(low, low + 1), [USER_ID, ITEM_ID, "pair_events"])
    pairs = pairs.filter(pc.and_(pc.equal(pairs[USER_ID], user), pc.is_valid(pairs["pair_events"])))
    items = build.read_items([ITEM_ID, "title"], candidates_only=False)
    named = pairs.join(items, ITEM_ID, join_type="left outer")
    named = named.sort_by([("pair_events", "descending"), (ITEM_ID, "ascending")])
    return [
        HistoryEntry(str(row[ITEM_ID]), row["title"] or str(row[ITEM_ID]), int(row["pair_events"]))
        for row in named.to_pylist()
    ]
