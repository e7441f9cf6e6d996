"""Erases a user everywhere, proves it, and keeps it so.

Order: the record, feature builds, scored files, tables, PostgreSQL copy, store; then the search. All under
the fences of all models, so that no publication writes meanwhile. Every step can be repeated: an erasure
that was cut short is taken up by the next publication or the next erasure.

The source tables are their owner's. As long as they list an erased user, every new feature build is made
without the user before anything is made of it.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import structlog

from features.errors import CallerError, StorageError
from features.feature_build import list_builds
from features.schema import USER_ID
from materialize.generation.catalogue import Catalogue
from materialize.generation.erased_files import (
    erase_from_blocks,
    erase_from_builds,
    erase_from_tables,
    ids_in,
)
from materialize.generation.erasure_log import ErasureLog, digest_of
from materialize.generation.erasure_search import Searched, search, search_sources
from materialize.generation.slot import open_loader
from materialize.progress import NoProgress, Progress, stage
from materialize.publish.postgres_copy import delete_user, user_ids
from materialize.publish.scored_tables import RECOMMENDATIONS, ScoredTables
from materialize.publish.store_erasure import erase_from_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from materialize.generation.erasure_log import Erasure
    from materialize.settings import Settings

_ATTEMPTS = 3
"""A request that was under way may write its answer back after the store was cleared, once."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Proof:
    """The end of an erasure.

    Attributes:
        erasure: Its number in the catalogue.
        removed: Rows or keys that were removed, by step.
        searched: What was searched afterwards, and found.
    """

    erasure: int
    removed: dict[str, int]
    searched: list[Searched]

    @property
    def in_sources(self) -> int:
        """Rows of the user that the source tables still hold."""
        return sum(place.found for place in self.searched if not place.ours)


def erase_user(settings: Settings, user_id: str, progress: Progress | None = None) -> Proof:
    """Remove a user from everything that Prescore has written.

    Args:
        settings: With a store that can be connected to (``materialize.embedded.with_store``).
        user_id: The id as text.
        progress: Told of each step.

    Raises:
        CallerError: If the ids are whole numbers and this is none.
        ConflictError: If a publisher is at work.
        StoreError, StorageError: If a place cannot be cleared or searched; the next erasure or publication goes on.
    """
    user, log = parse_user(settings, user_id), ErasureLog.of(settings)
    return _carry_out(settings, log, log.begin(str(user)), user, progress or NoProgress())


def finish_interrupted_erasures(settings: Settings, progress: Progress | None = None) -> int:
    """Finish what a crash has cut short; the erasures that were finished.

    The record does not name the user: whoever is left somewhere is recognized by the digest.

    Raises:
        As :func:`erase_user`.
    """
    log = ErasureLog.of(settings)
    begun = {e.digest: e for e in log.all() if e.completed_at is None}
    if not begun:
        return 0
    unfinished = log.erased(unfinished=True)
    left: dict[str, int | str] = {}
    count = 0
    for ids in _known_users(settings):
        count += len(ids)
        found = unfinished.among(dict.fromkeys(ids.to_pylist()))
        left |= {digest_of(unfinished.salt, user): user for user in found}
    for digest, erasure in begun.items():
        _log.warning("finishing an interrupted erasure", erasure=erasure.id)
        if digest in left:
            _carry_out(settings, log, erasure, left[digest], progress or NoProgress())
        else:
            log.complete(erasure, [asdict(Searched("all places, by the digest", count, "ids", 0))])
    return len(begun)


def leave_out_erased(settings: Settings, progress: Progress | None = None) -> int:
    """Rewrite feature builds that list users who were erased, since the source tables still do; their number.

    Raises:
        StorageError: If a build cannot be read or written.
    """
    erased = ErasureLog.of(settings).erased()
    if not erased.digests:
        return 0
    users: dict[int | str, None] = {}
    for build in list_builds(settings.features_path):
        users |= dict.fromkeys(erased.among(build.read_users(columns=[USER_ID])[USER_ID].to_pylist()))
    if users:
        with stage(progress or NoProgress(), "leave out erased users whom your tables still list") as running:
            erase_from_builds(settings, list(users))
            running.rows = len(users)
        _log.warning("erased users are still in the source tables", users=len(users))
    return len(users)


def parse_user(settings: Settings, text: str) -> int | str:
    """An id as the tables have it: a whole number or text.

    Raises:
        CallerError: If the ids are whole numbers and this is none.
    """
    whole = _whole_numbers(settings)
    if whole is None:  # nothing was written yet: as it looks
        whole = text.removeprefix("-").isdecimal()
    if not whole:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise CallerError("user ids are whole numbers here", got=repr(text)) from error


def _whole_numbers(settings: Settings) -> bool | None:
    for build in list_builds(settings.features_path):
        return build.schema.user_id_type == "int64"
    tables = ScoredTables.of(settings)
    if RECOMMENDATIONS in tables.names():
        return str(tables.table(RECOMMENDATIONS).schema().find_type(USER_ID)) == "long"
    return None


def _carry_out(
    settings: Settings, log: ErasureLog, erasure: Erasure, user: int | str, progress: Progress
) -> Proof:
    catalogue, removed = Catalogue.open(settings.catalogue_url), {}
    owner = f"erasure no. {erasure.id}"
    with ExitStack() as stack:
        models = sorted({*log.models(), settings.model})
        fences = {m: stack.enter_context(catalogue.hold_fence(m, owner)) for m in models}
        with stage(progress, "erase from feature builds") as running:
            removed["feature builds"] = running.rows = erase_from_builds(settings, [user])
        with stage(progress, "erase from scored files") as running:
            rows = erase_from_blocks(settings, catalogue, log, fences, user, erasure.id)
            removed["scored files"] = running.rows = rows
        with stage(progress, "erase from tables and their history") as running:
            removed["tables"] = running.rows = erase_from_tables(settings, catalogue, user)
        url = settings.sql_copy.url.get_secret_value()
        if url:
            with stage(progress, "erase from the PostgreSQL copy") as running:
                removed["PostgreSQL copy"] = running.rows = delete_user(url, user, settings.sql_copy.into)
        with stage(progress, "erase from the store") as running:
            removed["store"] = running.rows = erase_from_store(settings.store, settings.project, user)
        with stage(progress, "search for what is left") as running:
            for _ in range(_ATTEMPTS):
                searched = search(settings, user)
                if not searched[0].found:
                    break
                removed["store"] += erase_from_store(settings.store, settings.project, user)
            running.rows = sum(place.searched for place in searched)
    if left := [f"{p.place}: {p.found} {p.unit}" for p in searched if p.found]:
        raise StorageError(
            f"erasure no. {erasure.id} is not complete",
            expected="nothing found",
            got="; ".join(left),
            fix="run it again; what is left may belong to a process that was writing meanwhile",
        )
    searched += search_sources(settings, user)
    log.complete(erasure, [asdict(place) for place in searched])
    return Proof(erasure.id, removed, searched)


def _known_users(settings: Settings) -> Iterator[pa.Array | pa.ChunkedArray]:
    """Ids of all users that any place holds, with repeats."""
    with closing(open_loader(settings.store, settings.project)) as loader:
        yield from loader.all_ids()
    for build in list_builds(settings.features_path):
        yield build.read_users(columns=[USER_ID])[USER_ID]
    tables = ScoredTables.of(settings)
    for generation in tables.generations():
        yield tables.user_ids(generation)
    catalogue = Catalogue.open(settings.catalogue_url)
    for model in ErasureLog.of(settings).models():
        for known in catalogue.generations(model):
            yield from (ids_in(b.path) for b in catalogue.blocks(known.id) if b.path)
    if "users" in tables.names():
        yield tables.table("users").scan(selected_fields=(USER_ID,)).to_arrow()[USER_ID]
    if url := settings.sql_copy.url.get_secret_value():
        yield user_ids(url, settings.sql_copy.into)
