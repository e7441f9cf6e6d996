"""Plain hits of a batch, read in one round trip and written as JSON from the bytes of their rows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from features.errors import StoreError
from serving_lookup.answers import JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_lookup.activation import LiveGeneration
    from serving_lookup.hot_route import HotRoute
    from serving_lookup.parameters import ListParameters
    from serving_lookup.store import Store


class WrittenBatch:
    """One request's users.

    Args:
        hot: Writes answers.
        live: The generation that answers.
        asked: How lists are asked for.
    """

    def __init__(self, hot: HotRoute, live: LiveGeneration, asked: ListParameters) -> None:
        self._hot, self._live, self._asked = hot, live, asked
        self._written: list[bytes | None] = []
        self._missing = 0
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(self, store: Store, user_ids: Sequence[int | str]) -> list[bytes | None]:
        """Each user's answer; ``None`` for those who need the whole way of :meth:`~serving_lookup.lookup.Lookup.recommend`."""
        self._written, self._missing = [None] * len(user_ids), 1
        live = self._live
        for place, user_id in enumerate(user_ids):
            try:
                store.ask(live.read_predictions(live.key(user_id)), partial(self._read, place))
            except StoreError:
                break
            self._missing += 1
        self._count()
        await self._all
        return self._written

    def _read(self, place: int, row: Any) -> None:
        try:
            written = self._hot.written(self._live, row, self._asked, JSON, b"")
        except Exception:  # noqa: BLE001 - the whole way meets it again and tells it
            written = None
        if written is not None:
            self._written[place] = written[2]
        self._count()

    def _count(self) -> None:
        self._missing -= 1
        if not self._missing and not self._all.done():
            self._all.set_result(None)


def user_json(user_id: int | str, answer: bytes) -> bytes:
    """One user of a batch, as :class:`serving_lookup.answers.UserAnswer` is written."""
    name = b"%d" % user_id if isinstance(user_id, int) else msgspec.json.encode(user_id)
    return b'{"user_id":%b,"answer":%b}' % (name, answer)
