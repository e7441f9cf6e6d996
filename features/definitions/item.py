"""Item features: how popular, how new, how dear and how often repeated an item is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis

from features.definitions.pair_totals import History, decayed_units, label

if TYPE_CHECKING:
    import ibis.expr.types as ir


def item_features(history: History) -> ir.Table:
    """Features keyed by ``item_no``; items without an event before the cut-off have no row.

    Shares of all settled events and (user, item) pairs per window, of all pairs of all time, and of all decayed events;
    trend (rate in the shortest window against the longest), mean value, days since the last and the first event, share
    of the users who came back, events per user.
    """
    pairs, units = history.pairs, history.value_units
    totals: dict[str, ir.Value] = {}
    for days in history.windows:
        name = label(days)
        totals[f"item_event_share_{name}"] = pairs[f"events_{name}"].sum()
        totals[f"item_user_share_{name}"] = (pairs[f"events_{name}"] > 0).sum()
    for half_life in history.half_lives:
        totals[f"item_decayed_share_{label(half_life)}"] = pairs[f"decayed_{label(half_life)}"].sum()
    totals["item_user_share"] = pairs.count()
    users = (pairs.events_history > 0).sum().nullif(0)
    columns: dict[str, ir.Value] = {
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
    found = pairs.group_by("item_no").aggregate(**totals, **columns)
    # Relative to all items: a busy month and a quiet one then mean the same to a tree.
    whole = _settled_totals(history)
    return found.mutate(
        **{name: found[name] / ibis.literal(whole[name], "int64").nullif(0) for name in totals}
    )


def _settled_totals(history: History) -> dict[str, int]:
    """Of all items together, by the name of the share: what each item's total is divided by."""
    settled = history.events.filter(history.events.age_days > history.settled_age)
    age, last_age = settled.age_days, history.pairs.settled_last_age
    events = {f"item_event_share_{label(days)}": settled.count(where=age <= days) for days in history.windows}
    for half_life in history.half_lives:
        decayed = decayed_units(age, half_life).sum(where=age <= history.pair_days)
        events[f"item_decayed_share_{label(half_life)}"] = decayed.fill_null(0).cast("int64")
    pairs = {f"item_user_share_{label(days)}": (last_age <= days).sum() for days in history.windows}
    pairs["item_user_share"] = last_age.count()
    (of_events,) = settled.aggregate(**events).to_pyarrow().to_pylist()
    (of_pairs,) = history.pairs.aggregate(**pairs).to_pyarrow().to_pylist()
    return {**of_events, **of_pairs}


def candidate_events(history: History, *, settled: bool = False) -> ir.Table:
    """Events, or settled events, of each ``item_no`` in the candidate window: int64 ``events``."""
    pairs = history.pairs
    counted = pairs.settled_candidate if settled else pairs.events_candidate
    return pairs.group_by("item_no").aggregate(events=counted.sum().cast("int64"))
