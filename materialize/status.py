"""Looks at the parts of a running system and says how each is, without changing any but an interrupted flip."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from features.errors import PrescoreError
from materialize import embedded
from materialize.generation.flip import finish_interrupted_flip
from materialize.publish.redis_connections import explained, open_store
from materialize.walk import open_catalogue

if TYPE_CHECKING:
    from materialize.generation.catalogue import Catalogue
    from materialize.settings import Settings


@dataclass(frozen=True)
class PartStatus:
    """How a part is.

    Attributes:
        name: What it is.
        state: ``up``; ``down``: it should answer and does not; ``none``: there is nothing yet.
        detail: In words.
    """

    name: str
    state: Literal["up", "down", "none"]
    detail: str


def status(settings: Settings) -> list[PartStatus]:
    """Catalogue, live generation, store and service, in this order."""
    try:
        catalogue = open_catalogue(settings)
        parts = [PartStatus("catalogue", "up", "answers")]
    except PrescoreError as error:
        return [PartStatus("catalogue", "down", str(error))]
    parts.append(_live(settings, catalogue))
    parts.append(_store(settings, catalogue))
    found = embedded.service(settings)
    if found is None:
        parts.append(
            PartStatus("look-up service", "none", "none runs in the background; 'prescore serve' starts one")
        )
    else:
        parts.append(
            PartStatus("look-up service", "up", f"http://{found.host}:{found.port}, process {found.pid}")
        )
    return parts


def _live(settings: Settings, catalogue: Catalogue) -> PartStatus:
    live = catalogue.live_generation(settings.model)
    if live is None:
        return PartStatus("live generation", "none", "nothing is published yet; 'prescore run' does it")
    age = dt.datetime.now(dt.UTC) - (live.published_at or dt.datetime.now(dt.UTC))
    detail = (
        f"{live.id}: {live.users:,} users × {live.items:,} items, top {live.k}, slot {live.slot}, model {live.model_id}, "
        f"features as of {live.feature_cutoff:%Y-%m-%d %H:%M} UTC, published {str(age).split('.', maxsplit=1)[0]} ago"
    )
    return PartStatus("live generation", "up", detail)


def _store(settings: Settings, catalogue: Catalogue) -> PartStatus:
    embedded_store = settings.store.url.get_secret_value() == embedded.EMBEDDED
    if embedded_store and embedded.EmbeddedServer("valkey", settings).running() is None:
        return PartStatus(
            "store", "none", "the embedded Valkey does not run; any command that needs it starts it"
        )
    try:
        reachable = embedded.with_store(settings)
        url = reachable.store.url.get_secret_value()
        with explained(url), open_store(url, timeout=reachable.store.timeout_seconds) as client:
            keys = client.dbsize()
        finished = finish_interrupted_flip(reachable, catalogue)
    except PrescoreError as error:
        return PartStatus("store", "down", str(error))
    return PartStatus(
        "store", "up", f"{keys:,} keys" + ("; an interrupted flip was finished" if finished else "")
    )
