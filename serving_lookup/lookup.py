"""Answers one user: precomputed, else stale, else scored on demand, else the default list, and says which."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from features.errors import StoreError
from serving_lookup.answers import Answer, Item
from serving_lookup.arms import choose
from serving_lookup.fallback import Unscored
from serving_lookup.parameters import MAX_LIST
from serving_lookup.prediction_row import read_ids, read_scores
from serving_lookup.problems import unavailable
from serving_lookup.screen import EVERYTHING, passing
from serving_lookup.store import accepted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from materialize.publish.live_pointer import Passing
    from materialize.publish.serving_rules import Arm
    from materialize.settings import LookupSettings
    from serving_lookup.activation import Activation, LiveGeneration
    from serving_lookup.arms import Arms
    from serving_lookup.fallback import Fallback, ScoredList
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.parameters import ListParameters
    from serving_lookup.parity import ParityMeter
    from serving_lookup.rules import RulesFollower
    from serving_lookup.seen import Seen
    from serving_lookup.store import Store

_ATTEMPTS = 3
"""Readings of one row while generations flip beneath it; the last one that fails is a miss."""


class Lookup:
    """The order in which a user's list is sought.

    Args:
        store: Where precomputed lists are.
        activation: Which generation is live.
        fallback: Scores on demand.
        rules: Arms, and what may be in a list.
        arms: Generations of other models.
        seen: What users have seen.
        parity: Looks at a share of the hits; ``None``: at none.
        metrics: Counts what happens.
        settings: ``[lookup]``.
    """

    def __init__(
        self,
        store: Store,
        activation: Activation,
        fallback: Fallback,
        rules: RulesFollower,
        arms: Arms,
        seen: Seen,
        parity: ParityMeter | None,
        metrics: WorkerMetrics,
        settings: LookupSettings,
    ) -> None:
        self._store, self._activation, self._fallback = store, activation, fallback
        self._rules, self._arms, self._seen, self._parity = rules, arms, seen, parity
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
        rules = self._rules
        if (
            live is None
            or (self._parity is not None and self._parity.count())
            or self._seen.on
            or rules.rules.arms
            or self._is_stale(live)
        ):
            return None
        return live

    @property
    def personal(self) -> bool:
        """Whether lists change from request to request, so that nobody may keep one."""
        return self._seen.on

    @property
    def rules_version(self) -> bytes:
        """Version of the serving rules that have a part in every list; empty: none has."""
        rules = self._rules
        return rules.version if rules.screen is not None or rules.rules.arms else b""

    def verbatim(self, asked: ListParameters) -> bool:
        """Whether the answer to this is the first items of a row as they are stored, with nothing else said of them."""
        return self._rules.screen is None and not (asked.selects or asked.titles or asked.groups)

    def stored(
        self,
        live: LiveGeneration,
        row: list[bytes | None],
        asked: ListParameters,
        seen: Collection[int | str] = (),
    ) -> Answer | None:
        """The answer that a row of :meth:`LiveGeneration.read_predictions` holds; ``None`` if it is another generation's.

        Raises:
            StoreError: If the row cannot be read.
        """
        origin = live.origins.get(row[2] or b"")
        return None if origin is None else self._from_row(live, origin, row, asked, seen)

    async def recommend(self, live: LiveGeneration, user_id: int | str, asked: ListParameters) -> Answer:
        """The list of one user; all of it comes from one generation."""
        rules = self._rules.rules
        if not rules.arms:
            return await self._of_model(self._activation, live, user_id, asked)
        arm = choose(rules, user_id)
        answer = await self._of_arm(arm, live, user_id, asked)
        self._metrics.arm(arm.model, answer.source)
        return msgspec.structs.replace(answer, arm=arm.model)

    async def recommend_many(
        self, live: LiveGeneration, user_ids: Sequence[int | str], asked: ListParameters
    ) -> list[Answer | BaseException]:
        """The lists of many users, in their order: one write, one round trip for those that are precomputed.

        A user who meets an error is told by it in the answer's place; the others have theirs.
        """
        if self.plain_live() is not live:
            # All of them send what they read in their first step, so it leaves in one write here too.
            users = (self.recommend(live, user_id, asked) for user_id in user_ids)
            return await asyncio.gather(*users, return_exceptions=True)
        answers: list[Answer | asyncio.Task[Answer]] = []
        replies = await self._store.send_all(live.read_predictions_of(user_ids))
        for user_id, reply in zip(user_ids, replies, strict=True):
            try:
                answer = self.stored(live, accepted(reply), asked)
            except StoreError:
                self._metrics.event("store_error")
                answer = self.default(live, asked, "store_unavailable")
            answers.append(answer or asyncio.ensure_future(self.recommend(live, user_id, asked)))
        tasks = [answer for answer in answers if isinstance(answer, asyncio.Task)]
        outcomes = iter(await asyncio.gather(*tasks, return_exceptions=True))
        return [next(outcomes) if isinstance(answer, asyncio.Task) else answer for answer in answers]

    async def scorer(self, base: LiveGeneration, user_id: int | str) -> tuple[LiveGeneration, str | None]:
        """The generation whose model gives this user's list, and the arm whose turn it is, if there are arms.

        Raises:
            StoreError: If it takes the store to tell, and it does not.
        """
        rules = self._rules.rules
        if not rules.arms:
            return base, None
        arm = choose(rules, user_id)
        activation = self._arms.activation(arm, base)
        live = activation.live if activation is not None else None
        if live is not None and arm.absent == "base":
            row = accepted(await self._store.send(live.read_predictions(user_id)))
            live = live if row[2] in live.origins else None
        return live or base, arm.model

    async def _of_arm(
        self, arm: Arm, base: LiveGeneration, user_id: int | str, asked: ListParameters
    ) -> Answer:
        activation = self._arms.activation(arm, base)
        if activation is not None and activation.live is not None:
            answer = await self._of_model(
                activation, activation.live, user_id, asked, only_stored=arm.absent == "base"
            )
            if arm.absent == "score" or answer.source != "default":
                return answer
        return await self._of_model(self._activation, base, user_id, asked)

    async def _of_model(
        self,
        activation: Activation,
        live: LiveGeneration,
        user_id: int | str,
        asked: ListParameters,
        *,
        only_stored: bool = False,
    ) -> Answer:
        """The list of one user by one model.

        Args:
            activation: What follows the model.
            live: Its generation when the request came.
            user_id: Who.
            asked: How.
            only_stored: Give the default list where nothing is precomputed, rather than score.
        """
        try:
            seen = self._seen.ask(live, user_id) if self._seen.on else None
            if self._when_stale != "serve" and self._is_stale(live) and not only_stored:
                fresh = await self._fresher(live, user_id)
                if fresh is not None:
                    return self.scored(live, fresh, asked, await self._items_seen(live, seen))
            for _ in range(_ATTEMPTS):
                reading = self._store.send(live.read_predictions(user_id))
                row, hidden = accepted(await reading), await self._items_seen(live, seen)
                if (answer := self.stored(live, row, asked, hidden)) is not None:
                    parity = self._parity
                    if parity is not None and (parity.wanted or parity.count()):
                        parity.watch(live, user_id, row, whole=answer.generation == live.pointer.generation)
                    return answer
                if row[2] is None:
                    break
                # The slot is being overwritten, so the pointer must have moved since it was last read.
                self._metrics.event("mismatch")
                await activation.refresh()
                newest = activation.live or live
                if newest is live:
                    break
                live = newest
        except StoreError:
            self._metrics.event("store_error")
            return self.default(live, asked, "store_unavailable")
        if only_stored:
            return self.default(live, asked, "unknown_user")
        return await self._on_demand(live, user_id, asked, hidden)

    async def _items_seen(
        self, live: LiveGeneration, asked: asyncio.Future[Any] | None
    ) -> Collection[int | str]:
        return () if asked is None else await self._seen.read(live, asked)

    def default(
        self,
        live: LiveGeneration,
        asked: ListParameters,
        reason: str,
        seen: Collection[int | str] = (),
    ) -> Answer:
        """The list for users nobody knows."""
        ids, scores = live.default_list
        items = self._items(live, ids, scores, asked, seen)
        return Answer(
            items,
            "default",
            live.pointer.generation,
            live.pointer.model_id,
            live.pointer.feature_cutoff,
            _age(live.published),
            reason,
            len(items) < asked.k,
        )

    def _from_row(
        self,
        live: LiveGeneration,
        origin: Passing,
        row: list[bytes | None],
        asked: ListParameters,
        seen: Collection[int | str],
    ) -> Answer:
        limit = asked.reach if self._rules.screen is None and not seen else MAX_LIST
        ids, scores = read_ids(row[0] or b"", limit), read_scores(row[1] or b"", limit)
        items = self._items(live, ids, scores, asked, seen)
        return Answer(
            items,
            "stale" if self._is_stale(live) else "precomputed",
            origin.generation,
            live.pointer.model_id,
            origin.feature_cutoff,
            _age(live.published),
            None,
            len(items) < asked.k,
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

    async def _on_demand(
        self,
        live: LiveGeneration,
        user_id: int | str,
        asked: ListParameters,
        seen: Collection[int | str],
    ) -> Answer:
        try:
            scored = await self._fallback.top_k(live, user_id)
        except Unscored as why:
            return self.default(live, asked, why.reason, seen)
        return self.scored(live, scored, asked, seen)

    def scored(
        self,
        live: LiveGeneration,
        scored: ScoredList,
        asked: ListParameters,
        seen: Collection[int | str] = (),
    ) -> Answer:
        """An answer from a list that was scored on demand."""
        items = self._items(live, scored.item_ids, scored.scores, asked, seen)
        return Answer(
            items,
            "fallback",
            live.pointer.generation,
            live.pointer.model_id,
            live.pointer.feature_cutoff,
            _age(scored.scored_at),
            None,
            len(items) < asked.k,
        )

    def _items(
        self,
        live: LiveGeneration,
        ids: Iterable[Any],
        scores: Iterable[Any],
        asked: ListParameters,
        seen: Collection[int | str],
    ) -> list[Item]:
        pairs: Iterable[tuple[Any, Any]] = zip(ids, scores, strict=False)
        screen = self._rules.screen
        if screen is not None or seen or asked.selects:
            pairs = passing(live.artifact, pairs, asked, screen or EVERYTHING, seen)
        if asked.titles or asked.groups:
            titles = live.artifact.titles if asked.titles else {}
            groups = {column: live.artifact.groups.get(column, {}) for column in asked.groups}
            items = [
                Item(item, score, titles.get(item), {c: of.get(item) for c, of in groups.items()} or None)
                for item, score in pairs
            ]
        else:
            items = [Item(item, score) for item, score in pairs]
        if len(items) < asked.k:
            self._metrics.event("exhausted")
        return items[: asked.k]


def _age(since: float) -> float:
    return max(round(time.time() - since, 3), 0.0)
