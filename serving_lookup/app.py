"""The ASGI application: look-ups are answered right here, everything else by FastAPI behind it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving_lookup.access import KeyRing
from serving_lookup.answers import encode, negotiate
from serving_lookup.metrics import ROUTE_INDEX
from serving_lookup.model_routes import ModelRoutes
from serving_lookup.operation_routes import OperationRoutes
from serving_lookup.parameters import ListParameters, read_id, read_list_parameters, unescape
from serving_lookup.problems import FAILURE, Problem, no_such_model, no_such_path, unavailable
from serving_lookup.responses import answer_http_error, answer_problem
from serving_lookup.service import LookupService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from features.schema import FeatureSchema
    from materialize.settings import Settings
    from serving_lookup.metrics import SharedCounters, WorkerMetrics

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger()

_OPEN: Final = frozenset({b"/health/live", b"/health/ready", b"/", b"/docs", b"/openapi.json"})
"""Probes and pages hold no data: they need no key and are never shed."""

_RECOMMENDATIONS: Final = b"/recommendations"
_MAX_QUERY_BYTES: Final = 100_000
_REMEMBERED_QUERIES: Final = 1024
_REMEMBERED_QUERY_BYTES: Final = 128
_ROUTE: Final = ROUTE_INDEX["recommendations"]
_OTHER: Final = ROUTE_INDEX["other"]


class LookupApplication:
    """One worker's application.

    Args:
        settings: The whole tree.
        counters: Memory shared with the other workers.
    """

    def __init__(self, settings: Settings, counters: SharedCounters) -> None:
        self._settings = settings
        self._metrics: WorkerMetrics = counters.claim()
        self._service: LookupService | None = None
        self._model = settings.model.encode()
        self._max_k, self._most_under_way = settings.lookup.max_k, settings.lookup.max_under_way
        self._keys = KeyRing(settings.lookup.api_keys)
        self._under_way = 0
        self._queries: dict[tuple[bytes, str], ListParameters] = {}
        self._api = self._behind()

    def _behind(self) -> FastAPI:
        api = FastAPI(
            title="Prescore look-up service",
            description="Precomputed recommendations, scored on demand where there are none.",
            version="1",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
        )
        api.add_exception_handler(Problem, answer_problem)
        api.add_exception_handler(HTTPException, answer_http_error)
        api.add_exception_handler(Exception, answer_problem)
        ModelRoutes(self.service, self._settings, self.recommend).add_to(api)
        OperationRoutes(self.service).add_to(api)
        return api

    def service(self) -> LookupService:
        """The running service.

        Raises:
            Problem: 503 before the application has started.
        """
        if self._service is None:
            raise unavailable("starting", "The service is starting.")
        return self._service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection of ASGI 3."""
        kind = scope["type"]
        if kind == "http":
            path: bytes = scope["raw_path"]
            self._under_way += 1
            try:
                if path.endswith(_RECOMMENDATIONS) and scope["method"] == "GET":
                    await self._recommendations(scope, send)
                else:
                    await self._rest(path, scope, receive, send)
            finally:
                self._under_way -= 1
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    async def _recommendations(self, scope: Scope, send: Send) -> None:
        started = time.perf_counter()
        try:
            self._admit(scope)
            status, headers, body, source = await self.recommend(scope)
        except Problem as problem:
            status, headers, body, source = problem.status, problem.headers, problem.body(), "none"
        except Exception:
            # The boundary of the process: whatever it is, the client gets an answer and the log the trace.
            log.exception("request_failed", route="recommendations")
            status, headers, body, source = FAILURE.status, FAILURE.headers, FAILURE.body(), "none"
        await _send(send, status, headers, body)
        self._metrics.request(_ROUTE, source, status, time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Let a request in.

        Raises:
            Problem: 503 if too many are under way, 401 if it lacks a key.
        """
        if self._under_way > self._most_under_way:
            self._metrics.event("shed")
            raise unavailable("overloaded", "Too many requests are under way.")
        if self._keys.asks:
            self._keys.check(scope["headers"])

    async def recommend(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes, str]:
        """Answer the hot route: status, headers but for the length, body, source.

        Raises:
            Problem: If there is no answer.
        """
        accept = none_match = b""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept = value
            elif name == b"if-none-match":
                none_match = value
        media_type = negotiate(accept)
        parts = scope["raw_path"].split(b"/")
        if len(parts) != 7 or parts[1:3] != [b"v1", b"models"] or parts[4] != b"users":
            raise no_such_path(scope["raw_path"])
        if parts[3] != self._model:
            raise no_such_model(parts[3])
        lookup = self.service().lookup
        live = lookup.live()
        schema = live.artifact.schema
        user_id = read_id(unescape(parts[5]), schema.user_id_type, "user")
        answer = await lookup.recommend(live, user_id, self._parameters(scope["query_string"], schema))
        headers = [(b"content-type", media_type), (b"vary", b"accept")]
        if answer.source != "precomputed":
            headers.append((b"cache-control", b"no-store"))
            return 200, headers, encode(answer, media_type), answer.source
        etag = b'"%b"' % answer.generation.encode()
        headers += [(b"etag", etag), (b"cache-control", b"no-cache")]
        if none_match == etag:
            return 304, headers, b"", answer.source
        return 200, headers, encode(answer, media_type), answer.source

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

    async def _rest(self, path: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 500

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # Routes match the path as it was sent, so that an id may hold an encoded slash; handlers unescape.
        state: dict[str, Any] = {}
        scope = {**scope, "path": path.decode("latin-1"), "state": state}
        try:
            if path not in _OPEN:
                self._admit(scope)
            await self._api(scope, receive, send_and_note)
        except Problem as problem:  # from admission; the application answers its own
            await _send(send_and_note, problem.status, problem.headers, problem.body())
        except Exception:
            log.exception("request_failed", route=state.get("route", "other"))
        route, source = ROUTE_INDEX.get(state.get("route", ""), _OTHER), state.get("source", "none")
        self._metrics.request(route, source, status, time.perf_counter() - started)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    self._service = await LookupService.start(self._settings, self._metrics)
                except Exception as error:
                    log.exception("start_failed")  # the server would not say why
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._service is not None:
                    await self._service.close()
                    self._service = None
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
