"""Affinity features: how much of a user's history falls into a group of items, and how recently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.definitions.pair_totals import DECAY_UNITS, History, label

if TYPE_CHECKING:
    import ibis.expr.types as ir


def affinity_features(history: History, group: str) -> ir.Table:
    """Features keyed by ``user_no`` and the group's code (column named as the group).

    Events in the history, decayed count (longest half-life), share of the user's events, days since the
    last. A user and a group without an event in the history have no row.
    """
    pairs = history.pairs.filter(history.pairs.events_history > 0)
    placed = pairs.join(history.items.select("item_no", group), "item_no")
    placed = placed.filter(placed[group].notnull())
    slow = label(max(history.half_lives))
    totals = placed.group_by("user_no", group).aggregate(
        events=placed.events_history.sum(),
        decayed=placed[f"decayed_{slow}"].sum() / DECAY_UNITS,
        recency=placed.last_age.min(),
    )
    own = pairs.group_by("user_no").aggregate(all_events=pairs.events_history.sum())
    joined = totals.join(own, "user_no")
    return joined.select(
        "user_no",
        group,
        **{
            f"{group}_events": joined.events,
            f"{group}_decayed_{slow}": joined.decayed,
            f"{group}_share": joined.events / joined.all_events,
            f"{group}_recency_days": joined.recency,
        },
    )
