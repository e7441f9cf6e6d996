"""Scores a small share of hits again in the background and compares, so that a list that is not the model's shows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from features.errors import StoreError
from serving_lookup.fallback import Unscored
from serving_lookup.parameters import MAX_LIST
from serving_lookup.prediction_row import read_ids, read_scores

if TYPE_CHECKING:
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.fallback import Fallback
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.store import Store

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""No more than one user per pause is scored again, however many are asked for."""

TOLERANCE = 1e-5
"""Relative difference of scores that rounding may make between machines."""


class _StoredFeatures(msgspec.Struct):
    cutoff: str


class ParityMeter:
    """Chooses hits and compares them.

    Args:
        store: Says which features it holds.
        project: Feast project.
        fallback: Scores.
        metrics: Counts ``parity_equal``, ``parity_differs`` and ``parity_skipped``.
        share: Share of requests to look at, above 0.
    """

    def __init__(
        self, store: Store, project: str, fallback: Fallback, metrics: WorkerMetrics, share: float
    ) -> None:
        self._store, self._fallback, self._metrics = store, fallback, metrics
        self._key = f"prescore:{project}:features".encode()
        self._every = round(1 / share)
        self._left = self._every
        self._not_before = 0.0
        self.wanted = False
        """Whether the next hit is to be looked at, by way of :meth:`watch`."""
        self._task: asyncio.Task[None] | None = None

    def count(self) -> bool:
        """Count a request; whether a hit is to be looked at."""
        self._left -= 1
        if self._left <= 0:
            self._left = self._every
            self.wanted = time.monotonic() >= self._not_before
        return self.wanted

    def watch(
        self, live: LiveGeneration, user_id: int | str, row: list[bytes | None], *, whole: bool
    ) -> None:
        """Begin to compare the list in a row with what the model says now, unless scoring is busy.

        Args:
            live: The generation that answered.
            user_id: Whom.
            row: With what.
            whole: Whether the row is that generation's, and not of one that passes through its slot.
        """
        self.wanted = False
        self._not_before = time.monotonic() + PAUSE_SECONDS
        if not whole or self._fallback.under_way or (self._task is not None and not self._task.done()):
            self._metrics.event("parity_skipped")
            return
        self._task = asyncio.get_running_loop().create_task(self._compare(live, user_id, row))

    async def close(self) -> None:
        """Abandon what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _compare(self, live: LiveGeneration, user_id: int | str, row: list[bytes | None]) -> None:
        try:
            outcome = await self._outcome(live, user_id, row)
        except (StoreError, Unscored, TimeoutError):
            outcome = "parity_skipped"
        except Exception:
            log.exception("parity_failed")  # nobody waits for this, so it must be told here
            outcome = "parity_skipped"
        self._metrics.event(outcome)

    async def _outcome(self, live: LiveGeneration, user_id: int | str, row: list[bytes | None]) -> str:
        if not await self._same_features(live):
            return "parity_skipped"
        scored = await self._fallback.again(live, user_id)
        # Features that came while it was scored would be another day's.
        if not await self._same_features(live):
            return "parity_skipped"
        ids, scores = read_ids(row[0] or b"", MAX_LIST), read_scores(row[1] or b"", MAX_LIST)
        same = scored.item_ids == list(ids) and _close(scored.scores, scores)
        return "parity_equal" if same else "parity_differs"

    async def _same_features(self, live: LiveGeneration) -> bool:
        """Whether the store's features are those that the generation was made of."""
        raw = await self._store.call(b"GET", self._key)
        if raw is None:
            return False  # they are being replaced
        stored = msgspec.json.decode(raw, type=_StoredFeatures).cutoff
        digits = "".join(c for c in live.pointer.feature_cutoff[:19] if c.isalnum())
        return stored.rstrip("Z") == digits


def _close(ours: list[float], theirs: Any) -> bool:
    return len(ours) == len(theirs) and all(
        abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1.0) for a, b in zip(ours, theirs, strict=True)
    )
