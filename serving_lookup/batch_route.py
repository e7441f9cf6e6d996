"""The lists of many users: plain hits in one round trip, written from their rows; the others by the whole way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import structlog

from serving_lookup.answers import Answer, UserAnswer, negotiate
from serving_lookup.parameters import are_ids, read_json_id
from serving_lookup.problems import FAILURE, Problem
from serving_lookup.request_bodies import BatchRequest, check_body, decode_body, parameters_of
from serving_lookup.written_batch import WrittenBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from materialize.settings import Settings
    from serving_lookup.activation import LiveGeneration
    from serving_lookup.service import LookupService
    from serving_lookup.store import Store
    from serving_lookup.written_answers import WrittenAnswers

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchReply:
    """An answer's media type and text."""

    media_type: bytes
    body: bytes


class BatchRoute:
    """Answers of one worker.

    Args:
        service: Gives the running service; raises a 503 problem before it runs.
        settings: The whole tree.
        written: What stands around lists.
    """

    def __init__(
        self, service: Callable[[], LookupService], settings: Settings, written: WrittenAnswers
    ) -> None:
        self._service, self._limits, self._written = service, settings.lookup, written

    async def answer(self, headers: Iterable[tuple[bytes, bytes]], raw: bytes) -> BatchReply:
        """Answer a request for this model.

        Args:
            headers: Names in lower case.
            raw: The body.

        Raises:
            Problem: If the request as a whole has no answer; a user's own problem is in that user's place.
        """
        given = dict(headers)
        check_body(given.get(b"content-type", b""), len(raw), self._limits.max_body_bytes)
        asked = decode_body(raw, BatchRequest)
        if len(asked.users) > self._limits.max_batch:
            most = self._limits.max_batch
            raise Problem(413, "batch-too-large", f"At most {most} users; this batch has {len(asked.users)}.")
        running = self._service()
        lookup = running.lookup
        live = lookup.live()
        parameters = parameters_of(asked, live.artifact.schema, self._limits.max_k)
        media_type = negotiate(given.get(b"accept", b""))
        kind = live.artifact.schema.user_id_type
        users = asked.users if are_ids(asked.users, kind) else [_read_user(u, kind) for u in asked.users]
        rows: Sequence[Any] = [None] * len(users)
        if lookup.verbatim(parameters) and lookup.plain_live() is live:
            rows = await _read_rows(running.store, live, users)
        batch = WrittenBatch(media_type, users)
        of = partial(self._written.of, live, media_type=media_type, rules=lookup.rules_version)
        left = batch.write(rows, parameters.k, max(time.time() - live.published, 0.0), of)
        known = [user for n in left if not isinstance(user := users[n], UserAnswer)]
        answers = iter(await lookup.recommend_many(live, known, parameters) if known else ())
        for n in left:
            user = users[n]
            batch.fill(n, user if isinstance(user, UserAnswer) else _of_user(user, next(answers)))
        return BatchReply(media_type, batch.document())


async def _read_rows(
    store: Store, live: LiveGeneration, users: Sequence[int | str | UserAnswer]
) -> Sequence[Any]:
    """The rows of users, or errors, in one round trip; ``None`` where there is no id."""
    ids = [user for user in users if not isinstance(user, UserAnswer)]
    rows = await store.send_all(live.read_predictions_of(ids))
    if len(ids) == len(users):
        return rows
    found = iter(rows)
    return [None if isinstance(user, UserAnswer) else next(found) for user in users]


def _read_user(user: object, kind: Literal["int64", "string"]) -> int | str | UserAnswer:
    """A user's id, or the answer that it is none."""
    try:
        return read_json_id(user, kind, "user")
    except Problem as problem:
        return UserAnswer(user if isinstance(user, int | str) else None, problem=problem.document)


def _of_user(user_id: int | str, answer: Answer | BaseException) -> UserAnswer:
    """One user of a batch, whose failure is no other's."""
    if isinstance(answer, Answer):
        return UserAnswer(user_id, answer)
    problem = answer if isinstance(answer, Problem) else FAILURE
    if problem is FAILURE:
        log.error("request_failed", route="batch", error=repr(answer))
    return UserAnswer(user_id, problem=problem.document)
