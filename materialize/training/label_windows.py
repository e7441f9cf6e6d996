"""Chooses the label windows before a cut-off, and reads what happened in one.

::

    features strictly before ──┤ window 1 ├──┤ window 2 ├──┤ evaluation ├── cut-off
                                  train         train         measure

A window's start is the cut-off of its features: nothing that happens in a window is known to a feature
that predicts it. The windows touch and do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import ibis

from features.errors import SourceError
from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa


LEAST_DAYS = 7
"""Windows are not made shorter than this for there to be more of them: weekdays differ."""


@dataclass(frozen=True, order=True)
class LabelWindow:
    """Events at or after ``start`` and before ``end``; features are as of ``start``."""

    start: datetime
    end: datetime

    @property
    def days(self) -> int:
        """Its length."""
        return (self.end - self.start).days


@dataclass(frozen=True)
class WindowPlan:
    """Which windows a training uses.

    Attributes:
        training: Oldest first, at least one.
        evaluation: The last one before the cut-off; training does not see it.
    """

    training: tuple[LabelWindow, ...]
    evaluation: LabelWindow


def plan_windows(cutoff: datetime, first_event: datetime, *, days: int, count: int) -> WindowPlan:
    """Windows of ``days`` days: one to evaluate on and up to ``count`` before it to train on.

    Before the first window lies as much history as a window is long. Where the events do not reach back
    that far windows are shorter, down to a week; then there are fewer, and then they are shorter still.

    Raises:
        SourceError: If the events reach back less than three days.
    """
    span = (cutoff - first_event) / timedelta(days=1)
    if span < 3:
        raise SourceError(
            "there is too little history to train and evaluate on",
            expected="events of at least three days before the cut-off: history, a training window, an evaluation window",
            got=f"first event {first_event:%Y-%m-%d %H:%M}, cut-off {cutoff:%Y-%m-%d %H:%M}",
            fix="choose a later cut-off, or give more events",
        )
    # One part is history, one evaluation.
    shorter = int(span // (count + 2))
    days = min(days, shorter if shorter >= LEAST_DAYS else int(span // 3))
    count = max(1, min(count, int(span // days) - 2))
    starts = [cutoff - timedelta(days=days * k) for k in range(count + 1, 0, -1)]
    windows = [LabelWindow(start, start + timedelta(days=days)) for start in starts]
    return WindowPlan(tuple(windows[:-1]), windows[-1])


def pairs_in_window(events: ir.Table, window: LabelWindow, candidates: pa.Table) -> pa.Table:
    """Pairs with an event in a window, of items that were candidates at its start: the positives.

    Args:
        events: ``user_id, item_id, event_time``.
        window: Start included, end not.
        candidates: With a column ``item_id``.

    Returns:
        ``user_id, item_id``, distinct, sorted.
    """
    happened = events.filter(
        events.event_time >= ibis.literal(window.start), events.event_time < ibis.literal(window.end)
    )
    known = happened.semi_join(ibis.memtable(candidates.select([ITEM_ID])), ITEM_ID)
    return known.select(USER_ID, ITEM_ID).distinct().order_by(USER_ID, ITEM_ID).to_pyarrow()
