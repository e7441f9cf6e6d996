"""Plain hits of a batch, read in one round trip and written as JSON from the bytes of their rows."""

from __future__ import annotations

import asyncio
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


async def written_batch(
    hot: HotRoute, store: Store, live: LiveGeneration, user_ids: Sequence[int | str], asked: ListParameters
) -> list[bytes | None]:
    """Each user's answer as JSON; ``None`` for those who need the whole way of ``Lookup.recommend``.

    Args:
        hot: Writes answers.
        store: Where lists are.
        live: The generation that answers.
        user_ids: Who.
        asked: How lists are asked for.
    """
    if not user_ids:
        return []
    rows: list[Any] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def last(row: Any) -> None:
        rows.append(row)
        if not done.done():
            done.set_result(None)

    *others, final = [live.read_predictions(live.key(user_id)) for user_id in user_ids]
    try:
        for command in others:
            store.ask(command, rows.append)  # replies come in the order of commands
        store.ask(final, last)
    except StoreError:
        return [None] * len(user_ids)
    await done
    return [_body(hot, live, row, asked) for row in rows]


def _body(hot: HotRoute, live: LiveGeneration, row: Any, asked: ListParameters) -> bytes | None:
    try:
        written = hot.written(live, row, asked, JSON, b"")
    except Exception:  # noqa: BLE001 - the whole way meets it again and tells it
        return None
    return written[2] if written is not None else None


def user_json(user_id: int | str, answer: bytes) -> bytes:
    """One user of a batch, as :class:`serving_lookup.answers.UserAnswer` is written."""
    name = b"%d" % user_id if isinstance(user_id, int) else msgspec.json.encode(user_id)
    return b'{"user_id":%b,"answer":%b}' % (name, answer)
