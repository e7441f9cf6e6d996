"""Answers one user: precomputed, else stale, else scored on demand, else the default list, and says which."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from features.errors import StoreError
from serving_lookup.answers import Answer, Item
from serving_lookup.fallback import Unscored
from serving_lookup.prediction_row import read_ids, read_scores
from serving_lookup.problems import unavailable
from serving_lookup.store import accepted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from materialize.publish.live_pointer import Passing
    from materialize.settings import LookupSettings
    from serving_lookup.activation import Activation, LiveGeneration
    from serving_lookup.fallback import Fallback, ScoredList
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.parameters import ListParameters
    from serving_lookup.store import Store

_ATTEMPTS = 3
"""Readings of one row while generations flip beneath it; the last one that fails is a miss."""


class Lookup:
    """The order in which a user's list is sought.

    Args:
        store: Where precomputed lists are.
        activation: Which generation is live.
        fallback: Scores on demand.
        metrics: Counts what happens.
        settings: ``[lookup]``.
    """

    def __init__(
        self,
        store: Store,
        activation: Activation,
        fallback: Fallback,
        metrics: WorkerMetrics,
        settings: LookupSettings,
    ) -> None:
        self._store, self._activation, self._fallback = store, activation, fallback
        self._metrics, self._max_age, self._when_stale = metrics, settings.max_age_seconds, settings.stale

    def live(self) -> LiveGeneration:
        """The generation that answers now.

        Raises:
            Problem: 503 if there is none.
        """
        live = self._activation.live
        if live is None:
            raise unavailable("no-generation", f"No generation can be served: {self._activation.trouble}")
        return live

    def plain_live(self) -> LiveGeneration | None:
        """The generation whose rows answer as they are; ``None`` while requests need the whole way of :meth:`recommend`."""
        live = self._activation.live
        return None if live is None or self._is_stale(live) else live

    def verbatim(self, asked: ListParameters) -> bool:
        """Whether the answer to this is the first items of a row as they are stored, with nothing else said of them."""
        return not asked.exclude and not asked.titles

    def stored(self, live: LiveGeneration, row: list[bytes | None], asked: ListParameters) -> Answer | None:
        """The answer that a row of :meth:`LiveGeneration.read_predictions` holds; ``None`` if it is another generation's.

        Raises:
            StoreError: If the row cannot be read.
        """
        origin = live.origins.get(row[2] or b"")
        return None if origin is None else self._from_row(live, origin, row, asked)

    async def recommend(self, live: LiveGeneration, user_id: int | str, asked: ListParameters) -> Answer:
        """The list of one user; all of it comes from one generation."""
        if self._when_stale != "serve" and self._is_stale(live):
            fresh = await self._fresher(live, user_id)
            if fresh is not None:
                return self.scored(live, fresh, asked)
        for _ in range(_ATTEMPTS):
            try:
                row = accepted(await self._store.send(live.read_predictions(live.key(user_id))))
                if (answer := self.stored(live, row, asked)) is not None:
                    return answer
            except StoreError:
                self._metrics.event("store_error")
                return self.default(live, asked, "store_unavailable")
            if row[2] is None:
                break
            # The slot is being overwritten, so the pointer must have moved since it was last read.
            self._metrics.event("mismatch")
            await self._activation.refresh()
            newest = self._activation.live or live
            if newest is live:
                break
            live = newest
        return await self._on_demand(live, user_id, asked)

    async def recommend_many(
        self, live: LiveGeneration, user_ids: Sequence[int | str], asked: ListParameters
    ) -> list[Answer]:
        """The lists of many users, in their order: one write, one round trip for those that are precomputed."""
        if self._when_stale != "serve" and self._is_stale(live):
            return await asyncio.gather(*(self.recommend(live, user_id, asked) for user_id in user_ids))
        answers: list[Answer | asyncio.Task[Answer]] = []
        readings: list[asyncio.Future[Any] | None] = []
        for user_id in user_ids:
            try:
                readings.append(self._store.send(live.read_predictions(live.key(user_id))))
            except StoreError:
                readings.append(None)
        for user_id, reading in zip(user_ids, readings, strict=True):
            try:
                row = accepted(await reading) if reading is not None else None
                if row is not None and (answer := self.stored(live, row, asked)) is not None:
                    answers.append(answer)
                    continue
            except StoreError:
                row = None
            if row is None:
                self._metrics.event("store_error")
                answers.append(self.default(live, asked, "store_unavailable"))
            else:
                answers.append(asyncio.ensure_future(self.recommend(live, user_id, asked)))
        return [await answer if isinstance(answer, asyncio.Task) else answer for answer in answers]

    def default(self, live: LiveGeneration, asked: ListParameters, reason: str) -> Answer:
        """The list for users nobody knows."""
        ids, scores = live.default_list
        return Answer(
            self._items(live, ids, scores, asked),
            "default",
            live.pointer.generation,
            live.pointer.model_id,
            live.pointer.feature_cutoff,
            _age(live.published),
            reason,
        )

    def _from_row(
        self, live: LiveGeneration, origin: Passing, row: list[bytes | None], asked: ListParameters
    ) -> Answer:
        limit = asked.k + len(asked.exclude)
        ids, scores = read_ids(row[0] or b"", limit), read_scores(row[1] or b"", limit)
        return Answer(
            self._items(live, ids, scores, asked),
            "stale" if self._is_stale(live) else "precomputed",
            origin.generation,
            live.pointer.model_id,
            origin.feature_cutoff,
            _age(live.published),
        )

    def _is_stale(self, live: LiveGeneration) -> bool:
        return 0 < self._max_age < time.time() - live.published

    async def _fresher(self, live: LiveGeneration, user_id: int | str) -> ScoredList | None:
        """A list scored on demand in a stale one's place, if there is one now."""
        try:
            if self._when_stale == "score":
                return await self._fallback.top_k(live, user_id)
            return await self._fallback.remembered_or_begin(live, user_id)
        except (Unscored, StoreError):
            return None

    async def _on_demand(self, live: LiveGeneration, user_id: int | str, asked: ListParameters) -> Answer:
        try:
            scored = await self._fallback.top_k(live, user_id)
        except Unscored as why:
            return self.default(live, asked, why.reason)
        return self.scored(live, scored, asked)

    def scored(self, live: LiveGeneration, scored: ScoredList, asked: ListParameters) -> Answer:
        """An answer from a list that was scored on demand."""
        return Answer(
            self._items(live, scored.item_ids, scored.scores, asked),
            "fallback",
            live.pointer.generation,
            live.pointer.model_id,
            live.pointer.feature_cutoff,
            _age(scored.scored_at),
        )

    def _items(
        self, live: LiveGeneration, ids: Iterable[Any], scores: Iterable[Any], asked: ListParameters
    ) -> list[Item]:
        pairs: Iterable[tuple[Any, Any]] = zip(ids, scores, strict=False)
        if asked.exclude:
            exclude = asked.exclude
            pairs = ((item, score) for item, score in pairs if item not in exclude)
        if asked.titles:
            titles = live.artifact.titles
            items = [Item(item, score, titles.get(item)) for item, score in pairs]
        else:
            items = [Item(item, score) for item, score in pairs]
        if len(items) < asked.k:
            self._metrics.event("exhausted")
        return items[: asked.k]


def _age(since: float) -> float:
    return max(round(time.time() - since, 3), 0.0)
