"""The routes that nearly every request takes: one user's list, and a batch. A plain hit is answered in callbacks alone.

A plain hit reads one row and finds the live generation's list in it. Whatever else happens (no row, a row of another
generation, a store in trouble, a generation that is too old, a wrong parameter) goes the whole way of
:class:`serving_lookup.lookup.Lookup` in a task of its own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from serving_lookup.answers import encode, negotiate
from serving_lookup.caching import cache_control, still_holds, validator
from serving_lookup.metrics import ROUTE_INDEX
from serving_lookup.parameters import read_id, read_list_parameters, unescape
from serving_lookup.problems import FAILURE, Problem, no_such_model, no_such_path, unavailable
from serving_lookup.request_log import REQUEST_ID
from serving_lookup.shedding import Shedding

if TYPE_CHECKING:
    from collections.abc import Callable

    from features.schema import FeatureSchema
    from materialize.settings import Settings
    from serving_lookup.access import KeyRing
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.batch_route import BatchRoute
    from serving_lookup.connection import Connection
    from serving_lookup.http_head import HotRequest
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.parameters import ListParameters
    from serving_lookup.request_log import RequestLog
    from serving_lookup.service import LookupService
    from serving_lookup.tracing import Tracing
    from serving_lookup.written_answers import WrittenAnswers

_MAX_QUERY_BYTES: Final = 60_000
_REMEMBERED_QUERIES: Final = 1024
_REMEMBERED_QUERY_BYTES: Final = 128
_RECOMMENDATIONS: Final = ROUTE_INDEX["recommendations"]
_FEWEST_DIGITS_TO_CHECK: Final = 19
"""Whole numbers of fewer digits fit 64 bits."""


@dataclass(frozen=True, slots=True)
class HotAnswer:
    """An answer before it is on its way: headers but for length and date."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    source: str


class HotRoute:
    """Answers of one worker.

    Args:
        service: Gives the running service; raises a 503 problem before it runs.
        settings: The whole tree.
        metrics: Counts requests.
        keys: Who may ask.
        log: Told of refusals.
        tracing: Follows requests, the long way, where it is on.
        written: What stands around lists.
        batch: Answers batches.
    """

    def __init__(
        self,
        service: Callable[[], LookupService],
        settings: Settings,
        metrics: WorkerMetrics,
        keys: KeyRing,
        log: RequestLog,
        tracing: Tracing,
        written: WrittenAnswers,
        batch: BatchRoute,
    ) -> None:
        self._service, self._metrics, self._keys, self.log = service, metrics, keys, log
        self._tracing, self._written, self._batch = tracing, written, batch
        self._model = settings.model.encode()
        self._cache_control = cache_control(settings.lookup)
        self._max_k, self._most_under_way = settings.lookup.max_k, settings.lookup.max_under_way
        self._queries: dict[tuple[bytes, str], ListParameters] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way = 0
        """Requests of all routes that are being answered; the application counts its own in."""
        self._shedding = Shedding()

    def begin(self, request: HotRequest, connection: Connection) -> None:
        """Answer a request that came in on a connection, now or later."""
        started = time.perf_counter()
        if self.full:
            self._shedding.refuse(partial(self._shed, request, connection, started))
            return
        self.under_way += 1
        try:
            self.check_key(request.headers)
        except Problem as problem:
            # Told within this turn of the loop, a client asks again within it, and under load the turn would not end.
            answer = self._refusal(request, problem)
            asyncio.get_running_loop().call_soon(self._finish, request, answer, connection, started)
        else:
            if request.body is not None or not self._begin_hit(request, connection, started):
                self.begin_task(request, connection, started)

    @property
    def full(self) -> bool:
        """Whether as many requests are under way as may be."""
        return self.under_way >= self._most_under_way

    async def refusal(self) -> Problem:
        """What to tell one request too many, when it is its turn."""
        await self._shedding.turn()
        self._metrics.event("shed")
        return _OVERLOADED

    def check_key(self, headers: Any) -> None:
        """Let a request in.

        Raises:
            Problem: 401 if it lacks a key.
        """
        if self._keys.asks:
            self._keys.check(headers)

    async def answer(self, request: HotRequest) -> HotAnswer:
        """Answer a request that has been let in.

        Raises:
            Problem: If there is no answer.
        """
        if request.body is not None:
            reply = await self._batch.answer(request.headers, request.body)
            kept = [(b"content-type", reply.media_type), (b"cache-control", b"no-store")]
            return HotAnswer(200, kept, reply.body, "none")
        accept = none_match = b""
        for name, value in request.headers:
            if name == b"accept":
                accept = value
            elif name == b"if-none-match":
                none_match = value
        media_type = negotiate(accept)
        parts = request.raw_path.split(b"/")
        if len(parts) != 7 or parts[1:3] != [b"v1", b"models"] or parts[4] != b"users":
            raise no_such_path(request.raw_path)
        if parts[3] != self._model:
            raise no_such_model(parts[3])
        lookup = self._service().lookup
        live = lookup.live()
        schema = live.artifact.schema
        user_id = read_id(unescape(parts[5]), schema.user_id_type, "user")
        answer = await lookup.recommend(live, user_id, self._parameters(request.query, schema))
        self._tracing.say(answer)
        headers = [(b"content-type", media_type), (b"vary", b"accept")]
        if answer.source != "precomputed" or lookup.personal:
            headers.append((b"cache-control", b"no-store"))
            return HotAnswer(200, headers, encode(answer, media_type), answer.source)
        etag = validator(answer.generation, lookup.rules_version)
        headers += [(b"etag", etag), (b"cache-control", self._cache_control)]
        if none_match and still_holds(none_match, etag):
            return HotAnswer(304, headers, b"", answer.source)
        return HotAnswer(200, headers, encode(answer, media_type), answer.source)

    async def outcome(self, request: HotRequest, *, admitted: bool = False) -> HotAnswer:
        """Let a request in and answer it, problems and failures included."""
        if not self._tracing.on:
            return await self._outcome(request, admitted=admitted)
        with self._tracing.request(request.route, request.headers) as span:
            answer = await self._outcome(request, admitted=admitted)
            span.set_attribute("prescore.source", answer.source)
            span.set_attribute("http.response.status_code", answer.status)
            return answer

    async def _outcome(self, request: HotRequest, *, admitted: bool) -> HotAnswer:
        try:
            if not admitted:
                self.check_key(request.headers)
            answer = await self.answer(request)
        except Problem as problem:
            return self._refusal(request, problem)
        except Exception as error:  # noqa: BLE001 - the client gets an answer whatever it is, the log the trace
            request_id = self.log.id_of(request.headers)
            self.log.failed(request.route, request_id, error)
            return HotAnswer(
                FAILURE.status, [*FAILURE.headers, (REQUEST_ID, request_id)], FAILURE.body(), "none"
            )
        answer.headers.append((REQUEST_ID, self.log.id_of(request.headers)))
        return answer

    def count(self, request: HotRequest, answer: HotAnswer, started: float) -> None:
        """A request has been answered."""
        took = time.perf_counter() - started
        self._metrics.request(ROUTE_INDEX[request.route], answer.source, answer.status, took)

    def _refusal(self, request: HotRequest, problem: Problem) -> HotAnswer:
        request_id = self.log.id_of(request.headers)
        self.log.refused(request.route, request_id, problem)
        return HotAnswer(problem.status, [*problem.headers, (REQUEST_ID, request_id)], problem.body(), "none")

    def _shed(self, request: HotRequest, connection: Connection, started: float) -> None:
        """Refuse because of too much load, with as little work as can be."""
        self._metrics.event("shed")
        request_id = self.log.id_of(request.headers)
        self.log.refused(request.route, request_id, _OVERLOADED)
        connection.answer(503, _OVERLOADED_LINES + b"%b: %b\r\n" % (REQUEST_ID, request_id), _OVERLOADED_BODY)
        self._metrics.request(ROUTE_INDEX[request.route], "none", 503, time.perf_counter() - started)

    def _finish(self, request: HotRequest, answer: HotAnswer, connection: Connection, started: float) -> None:
        lines = b"".join([b"%b: %b\r\n" % header for header in answer.headers])
        connection.answer(answer.status, lines, answer.body)
        self.under_way -= 1
        self.count(request, answer, started)

    def _parameters(self, query: bytes, schema: FeatureSchema) -> ListParameters:
        # Applications ask with the same few query strings, so reading one again is a dictionary look-up.
        known = self._queries.get((query, schema.item_id_type))
        if known is None:
            if len(query) > _MAX_QUERY_BYTES:
                raise Problem(
                    400, "query-too-long", f"The query string has more than {_MAX_QUERY_BYTES} bytes."
                )
            known = read_list_parameters(query, schema, self._max_k)
            if len(query) <= _REMEMBERED_QUERY_BYTES:
                if len(self._queries) >= _REMEMBERED_QUERIES:
                    self._queries.clear()
                self._queries[query, schema.item_id_type] = known
        return known

    # --- the short way -----------------------------------------------------------------------------------------------

    def _begin_hit(self, request: HotRequest, connection: Connection, started: float) -> bool:
        """Read the user's row, to answer when it comes; false if the request is not one for the short way."""
        try:
            running = self._service()
            live = running.lookup.plain_live()
            if live is None:
                return False
            schema = live.artifact.schema
            accept, none_match, given_id = b"", b"", b""
            for name, value in request.headers:
                if name == b"accept":
                    accept = value
                elif name == b"if-none-match":
                    none_match = value
                elif name == REQUEST_ID:
                    given_id = value
            asked = self._parameters(request.query, schema)
            user = request.user
            user_id: int | str
            if schema.user_id_type == "int64" and user.isdigit() and len(user) < _FEWEST_DIGITS_TO_CHECK:
                user_id = int(user)
            else:
                user_id = read_id(unescape(user), schema.user_id_type, "user")
            hit = _Hit(
                self, request, connection, started, live, asked, negotiate(accept), none_match, given_id
            )
            running.store.ask(live.read_predictions(user_id), hit.read)
        except Exception:  # noqa: BLE001 - a problem or worse: the long way meets it again and tells it
            return False
        return True

    def written(
        self,
        live: LiveGeneration,
        row: Any,
        asked: ListParameters,
        media_type: bytes,
        none_match: bytes,
    ) -> tuple[int, bytes, bytes] | None:
        """Status, header lines and body of the precomputed answer in a row; ``None`` if there is none.

        Raises:
            StoreError: If the row cannot be read.
        """
        if type(row) is not list:
            return None
        lookup = self._service().lookup
        known = self._written.of(live, row[2], media_type, lookup.rules_version)
        if known is None:
            return None
        if none_match and still_holds(none_match, known.etag):
            return 304, known.lines, b""
        if lookup.verbatim(asked):
            age = max(time.time() - live.published, 0.0)
            body = known.list.write(row[0] or b"", row[1] or b"", asked.k, age)
            if body is not None:
                return 200, known.lines, body
        answer = lookup.stored(live, row, asked)
        if answer is None or answer.source != "precomputed":
            return None
        return 200, known.lines, encode(answer, media_type)

    def done(self, status: int, started: float) -> None:
        """A plain hit has been answered."""
        self.under_way -= 1
        self._metrics.request(_RECOMMENDATIONS, "precomputed", status, time.perf_counter() - started)

    def begin_task(self, request: HotRequest, connection: Connection, started: float) -> None:
        """Answer by the long way."""
        task = asyncio.get_running_loop().create_task(self._long_way(request, connection, started))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _long_way(self, request: HotRequest, connection: Connection, started: float) -> None:
        self._finish(request, await self.outcome(request, admitted=True), connection, started)


_OVERLOADED: Final = unavailable("overloaded", "Too many requests are under way.")
_OVERLOADED_LINES: Final = b"".join([b"%b: %b\r\n" % header for header in _OVERLOADED.headers])
_OVERLOADED_BODY: Final = _OVERLOADED.body()


class _Hit:
    """A request that waits for its row."""

    __slots__ = ("_asked", "_connection", "_given_id", "_live", "_media_type", "_none_match", "_request", "_route", "_started")  # fmt: skip

    def __init__(
        self,
        route: HotRoute,
        request: HotRequest,
        connection: Connection,
        started: float,
        live: LiveGeneration,
        asked: ListParameters,
        media_type: bytes,
        none_match: bytes,
        given_id: bytes,
    ) -> None:
        self._route, self._request, self._connection, self._started = route, request, connection, started
        self._live, self._asked, self._media_type = live, asked, media_type
        self._none_match, self._given_id = none_match, given_id

    def read(self, row: Any) -> None:
        """The row has come, or an error in its stead."""
        route = self._route
        try:
            written = route.written(self._live, row, self._asked, self._media_type, self._none_match)
        except Exception:  # noqa: BLE001 - the long way meets it again and tells it
            written = None
        if written is None:
            route.begin_task(self._request, self._connection, self._started)
            return
        status, lines, body = written
        if self._given_id:
            lines += b"%b: %b\r\n" % (REQUEST_ID, route.log.id_of(self._request.headers))
        self._connection.answer(status, lines, body)
        route.done(status, self._started)
