"""Pair features: a user's history with one item. Where people repeat, these decide the ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from features.definitions.pair_totals import DECAY_UNITS, History, label

if TYPE_CHECKING:
    import ibis.expr.types as ir


def pair_features(history: History) -> ir.Table:
    """Features keyed by ``user_no`` and ``item_no``; a pair without an event in the history has no row.

    Count, decayed counts, share of the user's events, days since the last, typical gap (days between
    the first and the last event over the gaps between them; missing for one event) and the days since
    the last in gaps: above 1 the user is due.
    """
    pairs = history.pairs.filter(history.pairs.events_history > 0)
    own = pairs.group_by("user_no").aggregate(all_events=pairs.events_history.sum())
    joined = pairs.join(own, "user_no")
    gaps = (joined.events_history - 1).nullif(0)
    gap = ((joined.first_age_history - joined.last_age) / gaps).nullif(0)
    return joined.select(
        "user_no",
        "item_no",
        pair_events=joined.events_history,
        **{
            f"pair_decayed_{label(h)}": joined[f"decayed_{label(h)}"] / DECAY_UNITS
            for h in history.half_lives
        },
        pair_share=joined.events_history / joined.all_events,
        pair_recency_days=joined.last_age,
        pair_gap_days=gap,
        pair_recency_gaps=joined.last_age / gap,
    )


def with_neighbours(pairs: ir.Table, neighbours: ir.Table) -> ir.Table:
    """Pair features and neighbours together: a pair without a history misses all but the measures of nearness.

    Args:
        pairs: Result of :func:`pair_features`.
        neighbours: Of :data:`features.definitions.neighbours.NEIGHBOUR_SCHEMA`.
    """
    joined = pairs.outer_join(neighbours, ["user_no", "item_no"])
    return joined.select(
        ibis.coalesce(joined.user_no, joined.user_no_right).name("user_no"),
        ibis.coalesce(joined.item_no, joined.item_no_right).name("item_no"),
        *pairs.columns[2:],
        **{f"pair_{measure}": joined[measure] for measure in neighbours.columns[2:]},
    )
