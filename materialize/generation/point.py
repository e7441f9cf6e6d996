"""Writes the live pointer of a generation into the store; one with a greater fencing token stays."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from features.errors import ConflictError
from materialize.generation.artifact import artifact_folder
from materialize.publish.live_pointer import LivePointer, Passing, pointer_key
from materialize.publish.redis_connections import explained, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from materialize.generation.lineage import Lineage
    from materialize.generation.records import Generation
    from materialize.settings import Settings

# One round trip, atomic in the server: a pointer with a greater fencing token stays.
_SET_POINTER = """
local found = redis.call('GET', KEYS[1])
if found and tonumber(cjson.decode(found)['fence']) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


def point_at(
    settings: Settings, lineage: Lineage, view: str, token: int, *, passing: Sequence[Generation] = ()
) -> None:
    """Let the pointer name a generation.

    Args:
        settings: Where the store is.
        lineage: The generation and those that it stands on.
        view: Feast view of the slot.
        token: Fencing token.
        passing: Other generations whose rows the slot may hold for a while.

    Raises:
        ConflictError: If a newer publisher has written the pointer.
        StoreError: If the store cannot be reached.
    """
    target = lineage.generation
    pointer = LivePointer(
        generation=target.id,
        slot="b" if view.endswith("_b") else "a",
        model=target.model,
        model_id=target.model_id,
        feature_cutoff=target.feature_cutoff.isoformat(),
        published_at=(target.published_at or datetime.now(UTC)).isoformat(),
        artifact=str(artifact_folder(settings, target.id)),
        fence=token,
        lineage=tuple(lineage.ids[1:]),
        passing=tuple(Passing(g.id, g.feature_cutoff.isoformat()) for g in passing),
    )
    url = settings.store.url.get_secret_value()
    key = pointer_key(settings.project, target.model)
    with explained(url), closing(open_store(url, settings.store.timeout_seconds)) as store:
        if not store.eval(_SET_POINTER, 1, key, pointer.encode(), str(token)):
            raise ConflictError(
                f"a newer publisher has already replaced the pointer of {target.model!r}",
                fix="nothing to do: its generation is served",
            )
