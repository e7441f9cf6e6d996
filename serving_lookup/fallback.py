"""Scores on demand: a user's features from the store, the whole catalogue, exactly what a full run would publish.

One scoring per user at a time however many ask, a bounded number at once, and a deadline for all.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from features.errors import NotFoundError, StoreError
from serving_lookup.explanation import explain_pair
from serving_lookup.problems import Problem, unavailable
from serving_lookup.scoring import score_list, score_pair
from serving_lookup.store import accepted, pack
from serving_lookup.user_inputs import UserInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from materialize.publish.lookup_artifact import LookupArtifact
    from materialize.settings import LookupSettings
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.answers import Contribution
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.request_bodies import ScoreRequest
    from serving_lookup.store import Store
    from serving_lookup.tracing import Tracing

log = structlog.get_logger()

Result = TypeVar("Result")

SLOW_FACTOR = 10
"""Pair and inline scores have no default to fall back on, so they may take this many deadlines."""


class ScoredList(msgspec.Struct, frozen=True, array_like=True):
    """A list that was scored on demand, as it is also remembered in the store.

    Attributes:
        item_ids: Best first.
        scores: Margins, float32 values.
        scored_at: Seconds since 1970.
    """

    item_ids: list[int | str]
    scores: list[float]
    scored_at: float


class Unscored(Exception):  # noqa: N818 - an outcome, not an error
    """A user that was not scored, and why: a ``reason`` of :class:`serving_lookup.answers.Answer`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_REMEMBERED = msgspec.msgpack.Decoder(ScoredList)


class Fallback:
    """On-demand scoring of one worker.

    Args:
        store: Where features are, and where lists are remembered.
        metrics: Counts what happens.
        settings: ``[lookup]``.
        tracing: Follows scorings.
    """

    def __init__(
        self, store: Store, metrics: WorkerMetrics, settings: LookupSettings, tracing: Tracing
    ) -> None:
        self._store, self._metrics, self._settings, self._tracing = store, metrics, settings, tracing
        self._deadline = settings.deadline_ms / 1000
        self._threads = ThreadPoolExecutor(settings.concurrent_scorings, "scoring")
        self._slots = asyncio.Semaphore(settings.concurrent_scorings)
        self._flights: dict[tuple[str, int | str], asyncio.Task[ScoredList]] = {}

    @property
    def under_way(self) -> int:
        """Users being scored or waiting for it."""
        return len(self._flights)

    async def close(self) -> None:
        """Abandon what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def warm(self, artifact: LookupArtifact) -> None:
        """Load compiled kernels and touch the artifact's pages, so that the first request does not pay for it."""
        score_list(artifact, UserInputs())

    async def top_k(self, live: LiveGeneration, user_id: int | str) -> ScoredList:
        """The published length of a user's list.

        Raises:
            Unscored: If the user is unknown, the store is away, or the deadline has passed.
        """
        flight = self._join_or_begin(live, user_id)
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.shield(flight)
        except TimeoutError:
            self._metrics.event("deadline")
            raise Unscored("deadline") from None
        except StoreError:
            self._metrics.event("store_error")
            raise Unscored("store_unavailable") from None

    async def again(self, live: LiveGeneration, user_id: int | str) -> ScoredList:
        """The list of a user as the model gives it now, whatever is remembered; it is not remembered either.

        Raises:
            Unscored: If the user is unknown.
            StoreError: If the store is away.
            TimeoutError: If scoring does not begin before the deadline.
        """
        row = accepted(await self._store.send(pack(b"HMGET", live.key(user_id), *live.inputs.fields)))
        inputs = live.inputs.from_store(row)
        if inputs is None:
            raise Unscored("unknown_user")
        return await self._in_thread(lambda: self._list(live, inputs), self._deadline)

    async def remembered_or_begin(self, live: LiveGeneration, user_id: int | str) -> ScoredList | None:
        """A list scored on demand a moment ago; if there is none, one is begun for whoever asks next.

        Raises:
            StoreError: If the store is away.
        """
        remembered = accepted(await self._store.send(pack(b"GET", live.remembered_key(user_id))))
        if remembered is not None:
            self._metrics.event("remembered")
            return _REMEMBERED.decode(remembered)
        # No more than can be scored within the deadline are begun: nobody waits for them.
        if len(self._flights) < self._settings.concurrent_scorings:
            self._join_or_begin(live, user_id)
        return None

    async def inline(self, live: LiveGeneration, asked: ScoreRequest) -> ScoredList:
        """The list of a user whose features are in the request.

        Raises:
            Problem: 422 if the features are not the model's, 503 if there is no time to score.
        """
        inputs = live.inputs.from_request(asked)
        return await self._with_patience(lambda: self._list(live, inputs))

    async def pair(self, live: LiveGeneration, user_id: int | str, item_id: int | str) -> float:
        """The margin of one pair.

        Raises:
            Problem: 404 if the user or the item is unknown, 503 if the store or the time does not allow.
        """
        inputs = await self._known_inputs(live, user_id)
        with _unknown_item_as_problem():
            return await self._with_patience(lambda: score_pair(live.artifact, inputs, item_id))

    async def explain(
        self, live: LiveGeneration, user_id: int | str, item_id: int | str
    ) -> tuple[float, float, list[Contribution]]:
        """The margin of one pair, what is expected of any, and what each feature adds; problems as of :meth:`pair`."""
        inputs = await self._known_inputs(live, user_id)
        with _unknown_item_as_problem():
            return await self._with_patience(lambda: explain_pair(live.artifact, inputs, item_id))

    async def _known_inputs(self, live: LiveGeneration, user_id: int | str) -> UserInputs:
        try:
            row = accepted(await self._store.send(pack(b"HMGET", live.key(user_id), *live.inputs.fields)))
            inputs = live.inputs.from_store(row)
        except StoreError as error:
            self._metrics.event("store_error")
            raise unavailable("store", str(error)) from None
        if inputs is None:
            raise Problem(404, "unknown-user", "The store has no features of this user.")
        return inputs

    def _join_or_begin(self, live: LiveGeneration, user_id: int | str) -> asyncio.Task[ScoredList]:
        key = (live.pointer.generation, user_id)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fly(live, user_id))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        else:
            self._metrics.event("joined")
        return flight

    async def _fly(self, live: LiveGeneration, user_id: int | str) -> ScoredList:
        remembered_key = live.remembered_key(user_id)
        # Both commands leave in one write, so this is one round trip.
        row, remembered = map(
            accepted,
            await asyncio.gather(
                self._store.send(pack(b"HMGET", live.key(user_id), *live.inputs.fields)),
                self._store.send(pack(b"GET", remembered_key)),
            ),
        )
        if remembered is not None:
            self._metrics.event("remembered")
            return _REMEMBERED.decode(remembered)
        inputs = live.inputs.from_store(row)
        if inputs is None:
            raise Unscored("unknown_user")
        scored = await self._in_thread(lambda: self._list(live, inputs), self._deadline)
        self._metrics.event("scored")
        self._remember(remembered_key, scored)
        return scored

    def _list(self, live: LiveGeneration, inputs: UserInputs) -> ScoredList:
        ids, scores = score_list(live.artifact, inputs)
        return ScoredList(ids, scores, time.time())

    async def _in_thread(self, work: Callable[[], Result], patience: float) -> Result:
        """Run it in a thread when a slot is free; who has waited past the deadline is dropped, not scored."""
        async with asyncio.timeout(patience):
            await self._slots.acquire()
        try:
            with self._tracing.part("score"):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._slots.release()

    async def _with_patience(self, work: Callable[[], Result]) -> Result:
        try:
            return await self._in_thread(work, SLOW_FACTOR * self._deadline)
        except TimeoutError:
            self._metrics.event("shed")
            raise unavailable("busy", "Too many users are being scored; try again.") from None

    def _remember(self, key: bytes, scored: ScoredList) -> None:
        seconds = self._settings.write_back_seconds
        if seconds:
            try:
                reply = self._store.send(
                    pack(b"SET", key, msgspec.msgpack.encode(scored), b"EX", b"%d" % seconds)
                )
            except StoreError:
                return
            reply.add_done_callback(_note_refusal)

    def _landed(self, key: tuple[str, int | str], flight: asyncio.Task[ScoredList]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            error = flight.exception()  # also marks it as seen when every caller has left
            if error is not None and not isinstance(error, Unscored | StoreError | TimeoutError):
                log.error("scoring_failed", error=repr(error))


@contextmanager
def _unknown_item_as_problem() -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise Problem(404, "unknown-item", str(error)) from None


def _note_refusal(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled() and reply.exception() is None:
        try:
            accepted(reply.result())
        except StoreError as error:
            log.warning("write_back_refused", why=str(error))
