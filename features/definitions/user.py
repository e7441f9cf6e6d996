"""User features: how much, how varied, how regular and how recent a user's events are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.definitions.pair_totals import History, label

if TYPE_CHECKING:
    import ibis.expr.types as ir


def user_features(history: History) -> ir.Table:
    """Features keyed by ``user_no``; users without an event before the cut-off have no row.

    Counts and values per window and of all time, distinct items, mean value, share of repeated events,
    days since the last (``user_recency_days``) and the first event (``user_tenure_days``).
    """
    pairs, units = history.pairs, history.value_units
    columns: dict[str, ir.Value] = {}
    for days in history.windows:
        name = label(days)
        events = pairs[f"events_{name}"]
        columns[f"user_events_{name}"] = events.sum()
        columns[f"user_value_{name}"] = pairs[f"value_{name}"].sum() / units
        columns[f"user_items_{name}"] = (events > 0).sum()
    total = pairs.events.sum()
    columns |= {
        "user_events": total,
        "user_items": pairs.count(),
        "user_mean_value": pairs.value.sum() / units / total,
        "user_repeat_share": 1 - pairs.count() / total,
        "user_recency_days": pairs.last_age.min(),
        "user_tenure_days": pairs.first_age.max(),
        "user_events_per_day": total / pairs.first_age.max(),
    }
    return pairs.group_by("user_no").aggregate(**columns)
