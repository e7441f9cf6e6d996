"""The route that Feast's own feature server has, so that its clients need nothing but another address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response

from features.errors import StoreError
from serving_lookup.online_features import OnlineFeatures, OnlineFeaturesRequest, read_online_features
from serving_lookup.openapi import operation
from serving_lookup.problems import unavailable
from serving_lookup.request_bodies import read_body
from serving_lookup.responses import respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.settings import LookupSettings
    from serving_lookup.service import LookupService


class FeastRoutes:
    """Handlers.

    Args:
        service: Gives the running service; raises a 503 problem before it runs.
        limits: ``[lookup]``.
    """

    def __init__(self, service: Callable[[], LookupService], limits: LookupSettings) -> None:
        self._service, self._limits = service, limits

    def add_to(self, app: FastAPI) -> None:
        """Add the route."""
        app.add_api_route(
            "/get-online-features",
            self.online_features,
            methods=["POST"],
            openapi_extra=operation(
                OnlineFeatures, (400, 404, 413, 415, 422, 503), body=OnlineFeaturesRequest
            ),
            response_class=Response,
        )

    async def online_features(self, request: Request) -> Response:
        """Features and predictions of users, as Feast's feature server answers."""
        request.state.route = "online_features"
        running = self._service()
        live = running.lookup.live()
        asked = await read_body(request, OnlineFeaturesRequest, self._limits.max_body_bytes)
        try:
            return respond(await read_online_features(running.store, live, asked, self._limits.max_batch))
        except StoreError as error:
            raise unavailable("store", str(error)) from None
