"""The one pass over the events: totals of each (user, item), from which every standard feature rolls up.

Events are read once and grouped once; users, items, groups and pairs then add up this much smaller
table. Amounts are summed as whole numbers of a small unit, so that a sum does not depend on the order
in which threads meet the rows: the same input gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ibis.expr.types as ir

DECAY_UNITS = 2**30
"""Units per event in decayed counts; a count keeps nine decimals."""


@dataclass(frozen=True)
class History:
    """What the definitions work on: everything strictly before one cut-off.

    What is learned from everybody is learned from *settled* events alone, those before the cut-off's day (UTC). So
    from one cut-off to the next of the same day only users and items with new events change.

    Attributes:
        events: As :func:`pair_totals` gets them.
        pairs: Result of :func:`pair_totals`, materialized.
        items: ``item_no``, and per group column its code int32 (null: none).
        windows: Windows in days, ascending.
        half_lives: Half-lives of decayed counts, in days.
        pair_days: How far back pair and affinity features look, in days.
        value_units: Units per 1.0 of value in the totals.
        settled_age: Days; older events are settled.
    """

    events: ir.Table
    pairs: ir.Table
    items: ir.Table
    windows: tuple[int, ...]
    half_lives: tuple[float, ...]
    pair_days: int
    value_units: float
    settled_age: int


def value_units(largest: float) -> float:
    """Units per 1.0 such that the largest value is about 2^40 units: 12 digits, and room for 2^23 of them."""
    return 2.0 ** (40 - math.frexp(largest)[1]) if largest > 0 else 1.0


def label(days: float) -> str:
    """A number of days as part of a feature's name: ``30d``, ``0_5d``."""
    return f"{days:g}d".replace(".", "_")


def pair_totals(
    events: ir.Table,
    *,
    windows: tuple[int, ...],
    half_lives: tuple[float, ...],
    pair_days: int,
    candidate_days: int,
    value_units: float,
    settled_age: int,
) -> ir.Table:
    """Totals per (user_no, item_no).

    Args:
        events: ``user_no`` and ``item_no`` int32 (places in the sorted ids), ``age_days`` float64 > 0 (day 0
            is the end of the cut-off's day), ``value`` float64.
        windows: Windows in days, ascending.
        half_lives: Half-lives of decayed counts, in days.
        pair_days: How far back pair and affinity features look, in days.
        candidate_days: Length of the candidate window, in days.
        value_units: Units per 1.0 of value.
        settled_age: Days; older events are settled.

    Returns:
        ``events`` and ``value`` (of all time), ``events_W`` and ``value_W`` per window, ``events_candidate``,
        ``settled_candidate`` (of them, the settled ones), ``events_history``, ``decayed_H`` per half-life (history only),
        all int64; ``last_age``, ``settled_last_age``, ``first_age``, ``first_age_history``: days, float64. Values and
        decayed counts are in units.
    """
    age = events.age_days
    units = (events.value * value_units).round().cast("int64")
    totals: dict[str, ir.Value] = {
        "events": events.count(),
        "value": units.sum().cast("int64"),
        "events_candidate": events.count(where=age <= candidate_days),
        "settled_candidate": events.count(where=(age > settled_age) & (age <= candidate_days)),
        "events_history": events.count(where=age <= pair_days),
        "last_age": age.min(),
        "settled_last_age": age.min(where=age > settled_age),
        "first_age": age.max(),
        "first_age_history": age.max(where=age <= pair_days),
    }
    for days in windows:
        totals[f"events_{label(days)}"] = events.count(where=age <= days)
        totals[f"value_{label(days)}"] = units.sum(where=age <= days).fill_null(0).cast("int64")
    for half_life in half_lives:
        decayed = decayed_units(age, half_life).sum(where=age <= pair_days)
        totals[f"decayed_{label(half_life)}"] = decayed.fill_null(0).cast("int64")
    return events.group_by("user_no", "item_no").aggregate(**totals)


def decayed_units(age: ir.Value, half_life: float) -> ir.Value:
    """What an event of an age in days adds to a decayed count, in units."""
    return ((-age * (math.log(2) / half_life)).exp() * DECAY_UNITS).round().cast("int64")
