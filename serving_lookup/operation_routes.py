"""Routes for those who run the service: generations, models, health, metrics, and the description of all routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Response

from serving_lookup.answers import GenerationList, Liveness, Model, ModelList, Readiness
from serving_lookup.openapi import components, operation
from serving_lookup.pages import DOCS_PAGE, PAGE_HEADERS, TRY_PAGE
from serving_lookup.responses import respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving_lookup.activation import LiveGeneration
    from serving_lookup.service import LookupService


class OperationRoutes:
    """Handlers.

    Args:
        service: Gives the running service; raises a 503 problem before it runs.
    """

    def __init__(self, service: Callable[[], LookupService]) -> None:
        self._service = service
        self._description = b""

    def add_to(self, app: FastAPI) -> None:
        """Add the routes; the description holds what the application has by then."""
        for path, handler, extra in (
            ("/v1/generations", self.generations, operation(GenerationList, (503,))),
            ("/v1/models", self.models, operation(ModelList, (503,))),
            ("/health/live", self.alive, operation(Liveness, ())),
            ("/health/ready", self.ready, operation(Readiness, (503,))),
        ):
            app.add_api_route(path, handler, methods=["GET"], openapi_extra=extra, response_class=Response)
        for path, undescribed in (
            ("/metrics", self.metrics),
            ("/openapi.json", self.openapi),
            ("/docs", self.docs),
            ("/", self.try_page),
        ):
            app.add_api_route(path, undescribed, methods=["GET"], include_in_schema=False)
        self._description = msgspec.json.encode(_description(app))

    async def generations(self) -> Response:
        """Which generation is live here."""
        activation = self._service().activation
        live = activation.live
        return respond(GenerationList(live.pointer if live is not None else None, activation.trouble))

    async def models(self) -> Response:
        """Which models can be asked."""
        live = self._service().activation.live
        return respond(ModelList([_describe(live)] if live is not None else []))

    async def alive(self) -> Response:
        """Whether the process answers; restart it if not."""
        return respond(Liveness())

    async def ready(self) -> Response:
        """Whether look-ups can be answered; send none if not. 503 says why."""
        readiness = self._service().readiness()
        return respond(readiness, status=200 if readiness.ready else 503)

    async def metrics(self) -> Response:
        """Counters of all workers in Prometheus' text format."""
        running = self._service()
        return Response(running.metrics.exposition(running.gauges()), media_type="text/plain; version=0.0.4")

    async def openapi(self) -> Response:
        """The description of all routes."""
        return Response(self._description, media_type="application/json")

    async def docs(self) -> Response:
        """The description for people; it needs nothing from elsewhere."""
        return Response(DOCS_PAGE, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    async def try_page(self) -> Response:
        """A page to try a user on and to see what is live."""
        return Response(TRY_PAGE, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")


def _describe(live: LiveGeneration) -> Model:
    artifact = live.artifact
    return Model(
        name=live.pointer.model,
        model_id=live.pointer.model_id,
        generation=live.pointer.generation,
        items=artifact.items.num_rows,
        k=artifact.k,
        features={name: str(scope) for name, scope in artifact.schema.scopes.items()},
    )


def _description(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description with our documents in place of the ones that it would make of the signatures."""
    description: dict[str, Any] = app.openapi()
    for methods in description["paths"].values():
        for route in methods.values():
            # Those of the signature come first and say less.
            told = {
                (parameter["in"], parameter["name"]): parameter for parameter in route.get("parameters", [])
            }
            route["parameters"] = list(told.values())
            if "requestBody" in route:
                route["responses"]["422"]["content"].pop("application/json", None)
            else:
                route["responses"].pop("422", None)
    description["components"] = {"schemas": components()}
    return description
