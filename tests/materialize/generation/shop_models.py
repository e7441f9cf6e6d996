"""Models of the shop that need no training, and what a test asks of a published world."""

from __future__ import annotations

import datetime as dt
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import redis
import xgboost

from features.feature_build import FeatureBuild
from materialize.generation.catalogue import Catalogue, Generation
from materialize.generation.run import publish_generation
from materialize.model_bundle import Lineage, ModelBundle
from materialize.progress import NoProgress
from materialize.publish.feast_format import decode_value, entity_key, field_hash
from materialize.publish.live_pointer import LivePointer, pointer_key
from materialize.publish.scored_tables import ScoredTables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

    from features.schema import FeatureColumn
    from materialize.progress import Progress
    from materialize.settings import Settings

CUTOFF_NAME = "20240701T000000Z"


def open_build(settings: Settings) -> FeatureBuild:
    """The shop's feature build."""
    return FeatureBuild.load(settings.features_path / CUTOFF_NAME)


def random_bundle(settings: Settings, seed: int) -> ModelBundle:
    """A forest that likes every feature to a random degree, so that another seed ranks otherwise."""
    for path in settings.models_path.glob("*"):
        known = ModelBundle.load(path)
        if known.lineage.parameters == {"seed": seed}:
            return known
    build = open_build(settings)
    rng = np.random.default_rng(seed)
    inputs = np.stack([rng.choice(_values(build, column), 4000) for column in build.schema.columns], axis=1)
    spread = np.nan_to_num((inputs - np.nanmean(inputs, 0)) / (np.nanstd(inputs, 0) + 1e-6))
    target = np.tanh(spread * rng.normal(size=inputs.shape[1])).sum(axis=1)
    matrix = xgboost.DMatrix(
        inputs,
        target,
        feature_names=build.schema.names,
        feature_types=[c.feature_type for c in build.schema.columns],
        enable_categorical=True,
    )
    booster = xgboost.train({"max_depth": 4, "eta": 0.5, "seed": seed, "nthread": 1}, matrix, 20)
    lineage = Lineage(
        cutoff=CUTOFF_NAME, parameters={"seed": seed}, created_at=dt.datetime(2024, 7, 2, tzinfo=dt.UTC)
    )
    return ModelBundle.save(
        settings.models_path,
        name=settings.model,
        model=bytes(booster.save_raw("ubj")),
        schema=build.schema,
        metrics={},
        exclude_seen=False,
        lineage=lineage,
    )


def _values(build: FeatureBuild, column: FeatureColumn) -> NDArray[np.float32]:
    """What a column really holds, with some missing."""
    kind = column.scope.kind
    if kind == "affinity":
        table = build.read_affinity(column.scope.group)
    elif kind == "item":
        table = build.read_items()
    else:
        table = build.read_users() if kind == "user" else build.read_pairs()
    return np.append(column.encode(table[column.name]), np.float32("nan"))


@dataclass(frozen=True)
class World:
    """A shop, its store and its catalogue.

    Attributes:
        settings: Where everything is.
        users: The largest id of a user.
    """

    settings: Settings
    users: int = 150

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue.open(self.settings.catalogue_url)

    @property
    def store(self) -> redis.Redis:
        return redis.Redis.from_url(self.settings.store.url.get_secret_value())

    def publish(
        self,
        client: Client,
        seed: int = 1,
        *,
        progress: Progress | None = None,
        overrides: Mapping[str, str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        full: bool = False,
        **scoring: object,
    ) -> Generation:
        settings = self.settings
        if scoring:
            settings = settings.model_copy(update={"scoring": settings.scoring.model_copy(update=scoring)})
        bundle = replace(random_bundle(settings, seed), metrics=metrics or {})
        return publish_generation(
            settings,
            open_build(settings),
            bundle,
            client,
            progress or NoProgress(),
            overrides=overrides,
            full=full,
        )

    def pointer(self) -> LivePointer | None:
        with closing(self.store) as store:
            raw = store.get(pointer_key(self.settings.project, self.settings.model))
        return None if raw is None else LivePointer.decode(raw)  # type: ignore[arg-type]

    def slot(self, name: str) -> dict[int, tuple[Any, ...]]:
        """User id → item_ids, scores, generation of a slot, for every user of the shop that is in it."""
        view = f"{self.settings.model}_{name}"
        fields = [field_hash(view, f) for f in ("item_ids", "scores", "generation")]
        rows: dict[int, tuple[Any, ...]] = {}
        with closing(self.store) as store:
            for user in range(1, self.users + 1):
                key: Any = entity_key(user, self.settings.project)
                raw: list[Any] = store.hmget(key, fields)  # type: ignore[assignment]
                if raw[2] is not None:
                    rows[user] = tuple(decode_value(r) for r in raw)
        return rows

    def served(self) -> dict[int, tuple[Any, ...]]:
        """What a look-up service would answer from, by user."""
        pointer = self.pointer()
        return {} if pointer is None else self.slot(pointer.slot)

    def answers(self) -> dict[int, tuple[Any, ...]]:
        """What :meth:`served` gives, after checking that a look-up service would accept every row."""
        pointer, rows = self.pointer(), self.served()
        assert pointer is not None
        accepted = {pointer.generation, *pointer.lineage, *(other.generation for other in pointer.passing)}
        assert {row[2] for row in rows.values()} <= accepted
        return rows

    def hashes(self) -> dict[bytes, dict[bytes, bytes]]:
        """Every field of every user's hash, byte for byte."""
        with closing(self.store) as store:
            keys: Any = [key for key in store.scan_iter() if not key.startswith(b"prescore:")]
            return {key: store.hgetall(key) for key in keys}  # type: ignore[misc]

    def contents(self) -> dict[str, object]:
        """Everything that a publication leaves, but for times and fencing tokens."""
        tables = ScoredTables.of(self.settings)
        live = self.catalogue.live_generation(self.settings.model)
        assert live is not None
        pointer = self.pointer()
        assert pointer is not None
        artifact = self.settings.generations_path / live.id
        return {
            "store": {slot: self.slot(slot) for slot in ("a", "b")},
            "pointer": (pointer.generation, pointer.slot, pointer.model_id, pointer.artifact),
            "files": {g: [p.read_bytes() for p in tables.files(g)] for g in tables.generations()},
            "artifact": {
                str(p.relative_to(artifact)): p.read_bytes()
                for p in sorted(artifact.rglob("*"))
                if p.is_file()
            },
            "states": {
                g.id: (g.state, g.slot, g.rows) for g in self.catalogue.generations(self.settings.model)
            },
            "gates": self.catalogue.gate_results(live.id),
        }


class AtStep(NoProgress):
    """Does something at the first step whose name begins so: ``<stage>: begin`` or ``<stage>: step``; for each name once."""

    def __init__(self, names: str | tuple[str, ...], action: Callable[[], object]) -> None:
        self._left = [names] if isinstance(names, str) else list(names)
        self._action, self._stage = action, ""

    @property
    def done(self) -> bool:
        """Whether all of the steps have come."""
        return not self._left

    def _step(self, name: str) -> None:
        for wanted in self._left:
            if name.startswith(wanted):
                self._left.remove(wanted)
                self._action()
                return

    def start(self, stage: str, total: int | None = None) -> None:
        super().start(stage, total)
        self._stage = stage
        self._step(f"{stage}: begin")

    def advance(self, n: int = 1) -> None:
        if n:
            self._step(f"{self._stage}: step")


FIRST_BLOCK = "score every user against every item: step"


class Saved:
    """Everything of a world but its tables, to come back to."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world, self._home = world, folder / "home"
        shutil.copytree(world.settings.home, self._home)
        with closing(world.store) as store:
            self._keys: dict[Any, Any] = {key: store.dump(key) for key in store.scan_iter()}

    def restore(self) -> None:
        """Go back."""
        shutil.rmtree(self._world.settings.home)
        shutil.copytree(self._home, self._world.settings.home)
        with closing(self._world.store) as store:
            store.flushall()
            for key, value in self._keys.items():
                store.restore(key, 0, value)
