"""Routes of a model behind the hot one: batch, pair score, explanation and inline features."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI, Request, Response

from features.errors import StoreError
from serving_lookup.answers import Answer, BatchAnswer, Explanation, PairScore, SeenAnswer, negotiate
from serving_lookup.openapi import ITEM, MODEL, list_parameters, operation, path_id
from serving_lookup.parameters import read_id, read_ids, read_item_parameter, unescape
from serving_lookup.problems import Problem, no_such_model, unavailable
from serving_lookup.request_bodies import (
    BatchRequest,
    ScoreRequest,
    SeenItems,
    parameters_of,
    read_body,
    read_bytes,
)
from serving_lookup.responses import NO_STORE, as_text, respond

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.settings import Settings
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.batch_route import BatchRoute
    from serving_lookup.lookup import Lookup
    from serving_lookup.service import LookupService

    IdKind = Literal["int64", "string"]

_READ = (400, 404, 406, 503)
_POSTED = (400, 404, 406, 413, 415, 422, 503)


class ModelRoutes:
    """Handlers.

    Args:
        service: Gives the running service; raises a 503 problem before it runs.
        settings: The whole tree.
        recommend: Answers the hot route; here for HEAD requests and for the description.
        batch: Answers batches.
    """

    def __init__(
        self,
        service: Callable[[], LookupService],
        settings: Settings,
        recommend: Callable[..., Any],
        batch: BatchRoute,
    ) -> None:
        self._service, self._model, self._limits = service, settings.model, settings.lookup
        self._recommend, self._batch = recommend, batch

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        model = "/v1/models/{model}"
        listing = [MODEL, path_id("user"), *list_parameters(self._limits.max_k)]
        pair = [MODEL, path_id("user"), path_id("item")]
        for path, handler, methods, extra in (
            (
                f"{model}/users/{{user}}/recommendations",
                self.recommendations,
                ["GET"],
                operation(Answer, _READ, parameters=listing, packed=True),
            ),
            (
                f"{model}/recommendations:batch",
                self.batch,
                ["POST"],
                operation(BatchAnswer, _POSTED, parameters=[MODEL], body=BatchRequest, packed=True),
            ),
            (
                f"{model}/users/{{user}}/items/{{item}}/score",
                self.pair_score,
                ["GET"],
                operation(PairScore, _READ, parameters=pair),
            ),
            (
                f"{model}/users/{{user}}/explain",
                self.explain,
                ["GET"],
                operation(Explanation, _READ, parameters=[MODEL, path_id("user"), ITEM]),
            ),
            (
                f"{model}/users/{{user}}/seen",
                self.seen,
                ["POST"],
                operation(SeenAnswer, _POSTED, parameters=[MODEL, path_id("user")], body=SeenItems),
            ),
            (
                f"{model}/score",
                self.score,
                ["POST"],
                operation(Answer, _POSTED, parameters=[MODEL], body=ScoreRequest, packed=True),
            ),
        ):
            # The documents are msgspec's, so FastAPI is told of them rather than asked to make them.
            app.add_api_route(path, handler, methods=methods, openapi_extra=extra, response_class=Response)
        path = f"{model}/users/{{user}}/recommendations"
        app.add_api_route(path, self.recommendations, methods=["HEAD"], include_in_schema=False)

    async def recommendations(self, request: Request) -> Response:
        """The items of one user, best first."""
        request.state.route = "recommendations"
        status, headers, body, request.state.source = await self._recommend(request.scope)
        return Response(body, status, dict(as_text(headers)))

    async def batch(self, request: Request, model: str) -> Response:
        """The items of many users; each gets an answer or a problem of its own."""
        request.state.route = "batch"
        self._of(model)
        raw = await read_bytes(request, self._limits.max_body_bytes)
        answer = await self._batch.answer(request.scope["headers"], raw)
        return Response(answer.body, headers=NO_STORE, media_type=answer.media_type.decode())

    async def pair_score(self, request: Request, model: str, user: str, item: str) -> Response:
        """The model's margin of one user and one item, computed on demand."""
        request.state.route = "pair_score"
        running, live, pair = await self._pair(
            model, user, partial(read_id, unescape(item.encode("latin-1")), entity="item")
        )
        score = await running.fallback.pair(live, pair["user_id"], pair["item_id"])
        request.state.source = "fallback"
        return respond(PairScore(**pair, score=score))

    async def explain(self, request: Request, model: str, user: str) -> Response:
        """What each feature adds to the model's margin of one user and one item."""
        request.state.route = "explain"
        read_item = partial(read_item_parameter, request.scope["query_string"])
        running, live, pair = await self._pair(model, user, read_item)
        item_id = pair["item_id"]
        score, expected, contributions = await running.fallback.explain(live, pair["user_id"], item_id)
        request.state.source = "fallback"
        title = live.artifact.titles.get(item_id)
        return respond(
            Explanation(**pair, title=title, score=score, expected=expected, contributions=contributions)
        )

    async def _pair(
        self, model: str, user: str, read_item: Callable[[IdKind], int | str]
    ) -> tuple[LookupService, LiveGeneration, dict[str, Any]]:
        """What scores a pair now, and what an answer says of the pair and of where its score comes from."""
        running, lookup, base = self._of(model)
        schema = base.artifact.schema
        user_id = read_id(unescape(user.encode("latin-1")), schema.user_id_type, "user")
        item_id = read_item(schema.item_id_type)
        try:
            live, arm = await lookup.scorer(base, user_id)
        except StoreError as error:
            raise unavailable("store", str(error)) from None
        said = {
            "user_id": user_id,
            "item_id": item_id,
            "source": "fallback",
            "generation": live.pointer.generation,
            "model": live.pointer.model_id,
            "feature_cutoff": live.pointer.feature_cutoff,
            "age_seconds": 0.0,
            "arm": arm,
        }
        return running, live, said

    async def seen(self, request: Request, model: str, user: str) -> Response:
        """Leave items out of a user's lists from now on: the user has just seen or bought them."""
        request.state.route = "seen"
        running, _, live = self._of(model)
        if not running.seen.on:
            raise Problem(404, "seen-off", "Seen items are not left out here; lookup.seen_days turns it on.")
        schema = live.artifact.schema
        user_id = read_id(unescape(user.encode("latin-1")), schema.user_id_type, "user")
        asked = await read_body(request, SeenItems, self._limits.max_body_bytes)
        items = dict.fromkeys(read_ids(asked.item_ids, schema.item_id_type, "item"))
        try:
            await running.seen.add(user_id, list(items))
        except StoreError as error:
            raise unavailable("store", str(error)) from None
        return respond(SeenAnswer(len(items)))

    async def score(self, request: Request, model: str) -> Response:
        """The items of a user whose features are in the request."""
        request.state.route = "score"
        running, lookup, live = self._of(model)
        asked = await read_body(request, ScoreRequest, self._limits.max_body_bytes)
        parameters = parameters_of(asked, live.artifact.schema, self._limits.max_k)
        media_type = negotiate(request.headers.get("accept", "").encode())
        scored = await running.fallback.inline(live, asked)
        request.state.source = "fallback"
        return respond(lookup.scored(live, scored, parameters), media_type)

    def _of(self, model: str) -> tuple[LookupService, Lookup, LiveGeneration]:
        running = self._service()
        if model != self._model:
            raise no_such_model(model.encode("latin-1"))
        return running, running.lookup, running.lookup.live()
