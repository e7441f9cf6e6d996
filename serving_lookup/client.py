"""A client of the look-up service, blocking and asynchronous, with typed answers and a budget for retries."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from features.errors import CallerError, NotFoundError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Id = int | str

Kind = TypeVar("Kind")

RETRIED_STATUSES: Final = frozenset({502, 503, 504})
FIRST_PAUSE_SECONDS: Final = 0.05

_NO_SEGMENTS: Final = frozenset({".", ".."})
"""Ids that cannot be a part of an address, encoded or not (RFC 3986, section 5.2.4): they are asked for in a batch."""


class RecommendedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of a list; ``score`` is the model's margin, ``title`` and ``groups`` are there if they were asked for."""

    item_id: int | str
    score: float
    title: str | None = None
    groups: dict[str, str | None] | None = None


class Recommendations(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's list and where it came from; see the service's description for each member."""

    items: list[RecommendedItem]
    source: str
    generation: str
    model: str
    feature_cutoff: str
    age_seconds: float
    reason: str | None = None
    exhausted: bool = False
    arm: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the service sent them."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


class UserProblem(msgspec.Struct, frozen=True):
    """Why one user of a batch has no answer."""

    type: str
    title: str
    status: int
    detail: str


class UserRecommendations(msgspec.Struct, frozen=True):
    """One user of a batch: ``answer`` or ``problem``."""

    user_id: int | str | None
    answer: Recommendations | None = None
    problem: UserProblem | None = None


class _Batch(msgspec.Struct, frozen=True):
    users: list[UserRecommendations]


class PairScore(msgspec.Struct, frozen=True):
    """The model's margin for one user and one item."""

    user_id: int | str
    item_id: int | str
    score: float
    source: str
    generation: str
    model: str
    feature_cutoff: str
    age_seconds: float


class RetryBudget:
    """Lets a share of requests be retried, so that clients do not multiply the load on a service in trouble.

    Args:
        share: Retries per request, in the long run.
        burst: Retries that may be saved up.
    """

    def __init__(self, share: float = 0.1, burst: float = 10.0) -> None:
        self._share, self._burst, self._left = share, burst, burst

    def earn(self) -> None:
        """A first attempt is being made."""
        self._left = min(self._left + self._share, self._burst)

    def spend(self) -> bool:
        """Whether a retry may be made; it is paid for."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Requests(ABC):
    """What both clients ask and how they read the answers."""

    def __init__(self, model: str, retries: int, budget: RetryBudget | None) -> None:
        self._model, self._retries, self._budget = quote(model, safe=""), retries, budget or RetryBudget()

    def _list(self, user: Id, k: int, exclude: Sequence[Id], fields: Sequence[str]) -> httpx.Request:
        if user in _NO_SEGMENTS:
            return self._batch([user], k, exclude, fields)
        return self._get(f"users/{_escape(user)}/recommendations?{_query(k, exclude, fields)}")

    def _batch(
        self, users: Sequence[Id], k: int, exclude: Sequence[Id], fields: Sequence[str]
    ) -> httpx.Request:
        body = {"users": list(users), "k": k, "exclude": list(exclude), "fields": list(fields)}
        return self._post("recommendations:batch", body)

    def _pair(self, user: Id, item: Id) -> httpx.Request:
        return self._get(f"users/{_escape(user)}/items/{_escape(item)}/score")

    def _inline(self, features: Mapping[str, Any], k: int) -> httpx.Request:
        return self._post("score", {**features, "k": k})

    def _get(self, rest: str) -> httpx.Request:
        return self._request("GET", rest)

    def _post(self, rest: str, body: Mapping[str, Any]) -> httpx.Request:
        return self._request("POST", rest, content=msgspec.json.encode(body))

    def _request(self, method: str, rest: str, **arguments: Any) -> httpx.Request:
        headers = {"content-type": "application/json"} if method == "POST" else {}
        return self._http().build_request(
            method, f"/v1/models/{self._model}/{rest}", headers=headers, **arguments
        )

    @abstractmethod
    def _http(self) -> httpx.Client | httpx.AsyncClient:
        """The connection that builds and sends requests."""

    def _pauses(self) -> Iterator[float]:
        """Seconds to wait before each retry, as long as retries are left."""
        self._budget.earn()
        for attempt in range(self._retries):
            if not self._budget.spend():
                return
            yield FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing


class LookupClient(_Requests):
    """Blocking client. Close it, or use it as a context.

    Args:
        url: Address of the service, such as ``http://127.0.0.1:8080``.
        model: Name of the model.
        timeout: Longest wait for an answer, in seconds.
        retries: Most retries of one request, on 502 to 504 and on connections that fail.
        budget: Shared by clients that should retry less together.
        headers: Sent with every request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        budget: RetryBudget | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(model, retries, budget)
        self._client = httpx.Client(base_url=url, timeout=timeout, headers=dict(headers or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def recommendations(
        self, user: Id, *, k: int = 20, exclude: Sequence[Id] = (), fields: Sequence[str] = ()
    ) -> Recommendations:
        """The items of one user, best first.

        Args:
            user: Id as in the tables; text for whole numbers is fine.
            k: Most items to return.
            exclude: Items to leave out.
            fields: ``title`` for names.

        Raises:
            CallerError: The request is wrong; :class:`NotFoundError` if there is no such model.
            RetryableError: The service cannot be reached or cannot answer now.
        """
        return _read_list(self._send(self._list(user, k, exclude, fields)))

    def batch(
        self, users: Sequence[Id], *, k: int = 20, exclude: Sequence[Id] = (), fields: Sequence[str] = ()
    ) -> list[UserRecommendations]:
        """The items of many users, in their order; errors as for :meth:`recommendations`."""
        return _read(self._send(self._batch(users, k, exclude, fields)), _Batch).users

    def pair_score(self, user: Id, item: Id) -> PairScore:
        """The margin of one pair; :class:`NotFoundError` if the store or the catalogue does not know one of them."""
        return _read(self._send(self._pair(user, item)), PairScore)

    def score(self, features: Mapping[str, Any], *, k: int = 20) -> Recommendations:
        """The items of a user described by ``{"user": …, "affinity": …, "pairs": …}``."""
        return _read(self._send(self._inline(features, k)), Recommendations)

    def _http(self) -> httpx.Client:
        return self._client

    def _send(self, request: httpx.Request) -> httpx.Response:
        pauses = self._pauses()
        while True:
            response, trouble = None, ""
            try:
                response = self._client.send(request)
            except httpx.TransportError as error:
                trouble = _transport(error)
            if response is not None and response.status_code not in RETRIED_STATUSES:
                return response
            pause = next(pauses, None)
            if pause is None:
                return _given_up(response, trouble)
            time.sleep(pause)


class AsyncLookupClient(_Requests):
    """Asynchronous client; arguments and methods as of :class:`LookupClient`."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        budget: RetryBudget | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(model, retries, budget)
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, headers=dict(headers or {}))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def recommendations(
        self, user: Id, *, k: int = 20, exclude: Sequence[Id] = (), fields: Sequence[str] = ()
    ) -> Recommendations:
        """See :meth:`LookupClient.recommendations`."""
        return _read_list(await self._send(self._list(user, k, exclude, fields)))

    async def batch(
        self, users: Sequence[Id], *, k: int = 20, exclude: Sequence[Id] = (), fields: Sequence[str] = ()
    ) -> list[UserRecommendations]:
        """See :meth:`LookupClient.batch`."""
        return _read(await self._send(self._batch(users, k, exclude, fields)), _Batch).users

    async def pair_score(self, user: Id, item: Id) -> PairScore:
        """See :meth:`LookupClient.pair_score`."""
        return _read(await self._send(self._pair(user, item)), PairScore)

    async def score(self, features: Mapping[str, Any], *, k: int = 20) -> Recommendations:
        """See :meth:`LookupClient.score`."""
        return _read(await self._send(self._inline(features, k)), Recommendations)

    def _http(self) -> httpx.AsyncClient:
        return self._client

    async def _send(self, request: httpx.Request) -> httpx.Response:
        pauses = self._pauses()
        while True:
            response, trouble = None, ""
            try:
                response = await self._client.send(request)
            except httpx.TransportError as error:
                trouble = _transport(error)
            if response is not None and response.status_code not in RETRIED_STATUSES:
                return response
            pause = next(pauses, None)
            if pause is None:
                return _given_up(response, trouble)
            await asyncio.sleep(pause)


def _escape(entity: Id) -> str:
    return quote(str(entity), safe="")


def _query(k: int, exclude: Sequence[Id], fields: Sequence[str]) -> str:
    query = f"k={k}"
    if exclude:
        query += "&exclude=" + ",".join(map(_escape, exclude))
    if fields:
        query += "&fields=" + ",".join(map(_escape, fields))
    return query


def _transport(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {error}"


def _given_up(response: httpx.Response | None, trouble: str) -> httpx.Response:
    if response is not None:
        return response
    raise RetryableError(
        "the look-up service cannot be reached", got=trouble, fix="check its address; 'prescore serve'"
    )


def _read_list(response: httpx.Response) -> Recommendations:
    """One user's list, whichever way it was asked for; errors as of :func:`_read`."""
    if not response.request.url.path.endswith(":batch"):
        return _read(response, Recommendations)
    (found,) = _read(response, _Batch).users
    if found.answer is None:
        raise CallerError(
            "the look-up service refused the user", got=found.problem.detail if found.problem else ""
        )
    return found.answer


def _read(response: httpx.Response, kind: type[Kind]) -> Kind:
    """The document of a response.

    Raises:
        CallerError: For a 4xx.
        RetryableError: For anything else that is no answer.
    """
    if response.status_code == httpx.codes.OK:
        return msgspec.json.decode(response.content, type=kind)
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = response.text[:200]
    what = f"the look-up service answered {response.status_code}"
    if response.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(what, got=detail)
    if response.is_client_error:
        raise CallerError(what, got=detail)
    raise RetryableError(what, got=detail)
