"""Item features: how popular, how new, how dear and how often repeated an item is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.definitions.pair_totals import DECAY_UNITS, History, label

if TYPE_CHECKING:
    import ibis.expr.types as ir


def item_features(history: History) -> ir.Table:
    """Features keyed by ``item_no``; items without an event before the cut-off have no row.

    Events and distinct users per window, users of all time, trend (rate in the shortest window against the
    longest), mean value, days since the last and the first event, share of the users who came back, events per user,
    decayed popularity.
    """
    pairs, units = history.pairs, history.value_units
    columns: dict[str, ir.Value] = {}
    for days in history.windows:
        name = label(days)
        columns[f"item_events_{name}"] = pairs[f"events_{name}"].sum()
        columns[f"item_users_{name}"] = (pairs[f"events_{name}"] > 0).sum()
    for half_life in history.half_lives:
        columns[f"item_decayed_{label(half_life)}"] = pairs[f"decayed_{label(half_life)}"].sum() / DECAY_UNITS
    columns["item_users"] = pairs.count()
    users = (pairs.events_history > 0).sum().nullif(0)
    columns |= {
        "item_mean_value": pairs.value.sum() / units / pairs.events.sum(),
        "item_recency_days": pairs.last_age.min(),
        "item_age_days": pairs.first_age.max(),
        "item_repeat_rate": (pairs.events_history > 1).sum() / users,
        "item_events_per_user": pairs.events_history.sum() / users,
    }
    if len(history.windows) > 1:
        short, long = history.windows[0], history.windows[-1]
        columns["item_trend"] = (pairs[f"events_{label(short)}"].sum() / short) / (
            pairs[f"events_{label(long)}"].sum().nullif(0) / long
        )
    return pairs.group_by("item_no").aggregate(**columns)


def candidate_events(history: History) -> ir.Table:
    """Events of each ``item_no`` in the candidate window: int64 ``events``."""
    return history.pairs.group_by("item_no").aggregate(
        events=history.pairs.events_candidate.sum().cast("int64")
    )
