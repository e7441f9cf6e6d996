"""What users have seen since their features were computed, as applications report it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import TYPE_CHECKING, Any

from features.errors import StoreError
from materialize.publish.serving_rules import seen_key
from serving_lookup.store import accepted, pack

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from serving_lookup.activation import LiveGeneration
    from serving_lookup.store import Store

MOST_REMEMBERED = 1000
"""Items kept per user, the latest."""

_DAY = 86400


class Seen:
    """Reads and writes the set of a user.

    Args:
        store: Where it is.
        project: Feast project.
        days: How long an item is remembered; 0: sets are neither read nor written.
    """

    def __init__(self, store: Store, project: str, days: float) -> None:
        self._store, self._project, self._seconds = store, project, days * _DAY
        self.on = days > 0
        """Whether seen items are left out."""

    def ask(self, live: LiveGeneration, user_id: int | str) -> asyncio.Future[Any]:
        """Ask for what a user has seen since the generation's cut-off; leaves with the other commands of this turn.

        What was seen before it is in the features already; whether a list leaves that out was for the run to decide.

        Raises:
            StoreError: As :meth:`Store.send` does.
        """
        cutoff = dt.datetime.fromisoformat(live.pointer.feature_cutoff).timestamp()
        since = max(cutoff, time.time() - self._seconds)
        return self._store.send(
            pack(b"ZRANGE", seen_key(self._project, user_id), b"%f" % since, b"+inf", b"BYSCORE")
        )

    async def read(self, live: LiveGeneration, asked: asyncio.Future[Any]) -> Collection[int | str]:
        """The items that a set holds, once its reply is there.

        Raises:
            StoreError: If the store does not give it.
        """
        items: list[bytes] = accepted(await asked)
        if live.artifact.schema.item_id_type == "string":
            return {item.decode(errors="replace") for item in items}
        return {int(item) for item in items if item.lstrip(b"-").isdigit()}

    async def add(self, user_id: int | str, item_ids: Sequence[int | str]) -> None:
        """Remember that a user has just seen items.

        Raises:
            StoreError: If the store does not take it.
        """
        key, now = seen_key(self._project, user_id), b"%f" % time.time()
        entries = [part for item in item_ids for part in (now, str(item).encode())]
        replies = [
            self._store.send(pack(b"ZADD", key, *entries)),
            self._store.send(pack(b"ZREMRANGEBYRANK", key, b"0", b"%d" % -(MOST_REMEMBERED + 1))),
            self._store.send(pack(b"EXPIRE", key, b"%d" % self._seconds)),
        ]
        for reply in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(reply, BaseException):
                raise StoreError("what was seen could not be remembered", got=str(reply)) from reply
            accepted(reply)
