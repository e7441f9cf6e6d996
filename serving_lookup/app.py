"""The application of one worker: look-ups go to the hot route, everything else to FastAPI behind it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving_lookup.access import KeyRing
from serving_lookup.batch_route import BatchRoute
from serving_lookup.caching import cache_control
from serving_lookup.feast_routes import FeastRoutes
from serving_lookup.hot_route import HotRoute
from serving_lookup.http_head import HotRequest
from serving_lookup.metrics import ROUTE_INDEX
from serving_lookup.model_routes import ModelRoutes
from serving_lookup.operation_routes import OperationRoutes
from serving_lookup.problems import Problem, unavailable
from serving_lookup.request_log import REQUEST_ID, RequestLog
from serving_lookup.responses import answer_http_error, answer_problem
from serving_lookup.service import LookupService
from serving_lookup.tracing import Tracing
from serving_lookup.written_answers import WrittenAnswers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from materialize.settings import Settings
    from serving_lookup.connection import Connection
    from serving_lookup.metrics import SharedCounters, WorkerMetrics

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPEN: Final = frozenset({b"/health/live", b"/health/ready", b"/", b"/docs", b"/openapi.json"})
"""Probes and pages hold no data: they need no key and are never shed."""

_RECOMMENDATIONS: Final = b"/recommendations"
_OTHER: Final = ROUTE_INDEX["other"]


class LookupApplication:
    """One worker's application: ASGI 3, and a shorter way for plain requests (:meth:`hot`).

    Args:
        settings: The whole tree.
        counters: Memory shared with the other workers.
    """

    def __init__(self, settings: Settings, counters: SharedCounters) -> None:
        self._settings = settings
        self._metrics: WorkerMetrics = counters.claim()
        self._service: LookupService | None = None
        self._log = RequestLog()
        file = settings.lookup.api_keys_file
        self.keys = KeyRing(settings.lookup.api_keys, Path(file) if file else None)
        self._tracing = Tracing(settings.lookup.traces)
        written = WrittenAnswers(cache_control(settings.lookup))
        self._batch = BatchRoute(self.service, settings, written)
        self._hot = HotRoute(
            self.service,
            settings,
            self._metrics,
            self.keys,
            self._log,
            self._tracing,
            written,
            self._batch,
        )
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
        ModelRoutes(self.service, self._settings, self._recommend, self._batch).add_to(api)
        FeastRoutes(self.service, self._settings.lookup).add_to(api)
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

    async def start(self) -> None:
        """Connect and activate what is live.

        Raises:
            SettingsError: If ``store.url`` cannot be read.
        """
        self._service = await LookupService.start(self._settings, self._metrics, self._tracing)

    async def close(self) -> None:
        """Stop everything that was started."""
        if self._service is not None:
            await self._service.close()
            self._service = None
        self._tracing.close()

    def hot(self, request: HotRequest, connection: Connection) -> None:
        """Answer a plain request for recommendations, now or later."""
        self._hot.begin(request, connection)

    def refused(
        self, problem: Problem, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> list[tuple[bytes, bytes]]:
        """Count a request that no route answers, or that could not even be read; headers to add to its answer."""
        request_id = self._log.id_of(headers)
        self._log.refused("none", request_id, problem)
        self._metrics.request(_OTHER, "none", problem.status, 0.0)
        return [(REQUEST_ID, request_id)]

    async def operate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the operations' own address, which needs no key and is never shed."""
        await self._rest(scope["raw_path"], scope, receive, send, admitted=True)

    async def tell(self, problem: Problem, scope: Scope, send: Send) -> None:
        """Answer with a problem."""
        headers = [*problem.headers, *self.refused(problem, scope["headers"])]
        await _send(send, problem.status, headers, problem.body())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of ASGI 3."""
        path: bytes = scope["raw_path"]
        if self._hot.full and path not in _OPEN:
            await self.tell(await self._hot.refusal(), scope, send)
            return
        self._hot.under_way += 1
        try:
            if path.endswith(_RECOMMENDATIONS) and scope["method"] == "GET":
                started = time.perf_counter()
                request = _as_hot(scope)
                answer = await self._hot.outcome(request)
                await _send(send, answer.status, answer.headers, answer.body)
                self._hot.count(request, answer, started)
            else:
                await self._rest(path, scope, receive, send)
        finally:
            self._hot.under_way -= 1

    async def _recommend(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes, str]:
        answer = await self._hot.answer(_as_hot(scope))
        return answer.status, answer.headers, answer.body, answer.source

    async def _rest(
        self, path: bytes, scope: Scope, receive: Receive, send: Send, *, admitted: bool = False
    ) -> None:
        started, status, request_id = time.perf_counter(), 0, self._log.id_of(scope["headers"])

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id)]
            await send(message)

        # Routes match the path as it was sent, so that an id may hold an encoded slash; handlers unescape.
        state: dict[str, Any] = {}
        scope = {**scope, "path": path.decode("latin-1"), "state": state}
        try:
            if path not in _OPEN and not admitted:
                self._hot.check_key(scope["headers"])
            if self._tracing.on and path not in _OPEN:
                with self._tracing.request("other", scope["headers"]) as span:
                    await self._api(scope, receive, send_and_note)
                    span.update_name(state.get("route", "other"))
                    span.set_attribute("prescore.source", state.get("source", "none"))
                    span.set_attribute("http.response.status_code", status)
            else:
                await self._api(scope, receive, send_and_note)
        except Problem as problem:  # from admission; the application answers its own
            state["problem"] = problem
            await _send(send_and_note, problem.status, problem.headers, problem.body())
        except Exception as error:  # noqa: BLE001 - the client has been answered, the log gets the trace
            self._log.failed(state.get("route", "other"), request_id, error)
        if (refusal := state.get("problem")) is not None:
            self._log.refused(state.get("route", "other"), request_id, refusal)
        route, source = ROUTE_INDEX.get(state.get("route", ""), _OTHER), state.get("source", "none")
        self._metrics.request(route, source, status or 500, time.perf_counter() - started)


def _as_hot(scope: Scope) -> HotRequest:
    path: bytes = scope["raw_path"]
    return HotRequest(path, path.split(b"/")[-2], scope["query_string"], scope["headers"])


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
