"""Routes for those who run the service: generations, models, health, metrics, and the description of all routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Response

from serving_lookup.answers import GenerationList, Liveness, Model, ModelList, Readiness
from serving_lookup.openapi import components, operation
from serving_lookup.responses import respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving_lookup.activation import LiveGeneration
    from serving_lookup.service import LookupService

DOCS_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Prescore look-up service</title>
<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}code{background:#eee}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}</style>
<h1>Prescore look-up service</h1><p>The machine-readable description is <a href="/openapi.json">/openapi.json</a>
(OpenAPI 3.1).</p><table id="routes"><tr><th>Method<th>Path<th>What it answers</table><script>
fetch("/openapi.json").then(r=>r.json()).then(api=>{const table=document.getElementById("routes");
for(const [path,methods] of Object.entries(api.paths))for(const [method,route] of Object.entries(methods)){
const row=table.insertRow();row.insertCell().textContent=method.toUpperCase();
const code=document.createElement("code");code.textContent=path;row.insertCell().append(code);
const cell=row.insertCell();cell.textContent=route.description||route.summary;
for(const p of route.parameters||[]){const line=document.createElement("div");
line.textContent=`${p.name} (${p.in}): ${p.description||""}`;line.style.color="#555";cell.append(line)}}});
</script></html>"""


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
        return Response(DOCS_PAGE, media_type="text/html; charset=utf-8")


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
