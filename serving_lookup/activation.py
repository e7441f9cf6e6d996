"""Follows the live pointer: a new generation's artifact is loaded beside the old one, then swapped in at once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from features.errors import PrescoreError, StoreError
from features.schema import ITEM_ID
from materialize.publish.feast_format import Kind, encode_value, entity_key, field_hash
from materialize.publish.live_pointer import LivePointer, Passing, pointer_key
from materialize.publish.lookup_artifact import SCORE, LookupArtifact
from serving_lookup.store import pack
from serving_lookup.user_inputs import InputReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.store import Store

log = structlog.get_logger()

_INT64: Final = struct.Struct("<q").pack
POLL_SECONDS = 0.5
PREDICTION_FIELDS = ("item_ids", "scores", "generation")


@dataclass(frozen=True)
class LiveGeneration:
    """One generation as requests see it: a request takes one of these and answers from nothing else.

    Attributes:
        pointer: What the publisher wrote.
        artifact: Its look-up artifact.
        project: Feast project, part of every key.
    """

    pointer: LivePointer
    artifact: LookupArtifact
    project: str

    @cached_property
    def fields(self) -> list[bytes]:
        """Hash fields of a user's predictions, in the order of :data:`PREDICTION_FIELDS`."""
        return [field_hash(self.pointer.view, name) for name in PREDICTION_FIELDS]

    @cached_property
    def published(self) -> float:
        """When the generation was published, in seconds since 1970."""
        return dt.datetime.fromisoformat(self.pointer.published_at).timestamp()

    @cached_property
    def origins(self) -> dict[bytes, Passing]:
        """What the ``generation`` field of a row may hold, and the generation whose list that row is.

        A row that a delta's ancestor wrote and the delta left alone is the delta's: the list is what a full run gives.
        """
        pointer = self.pointer
        this = Passing(pointer.generation, pointer.feature_cutoff)
        rows = dict.fromkeys((pointer.generation, *pointer.lineage), this)
        rows |= {other.generation: other for other in pointer.passing}
        return {encode_value(generation, Kind.STRING): origin for generation, origin in rows.items()}

    @cached_property
    def default_list(self) -> tuple[list[int | str], list[float]]:
        """Item ids and scores for users nobody knows, best first."""
        table = self.artifact.default
        return table[ITEM_ID].to_pylist(), table[SCORE].to_pylist()

    @cached_property
    def inputs(self) -> InputReader:
        """Reads the model's inputs of a user."""
        return InputReader(self.artifact.schema)

    @cached_property
    def _around_key(self) -> tuple[bytes, bytes]:
        key, ending = entity_key(0, self.project), len(self.project.encode())
        return key[: -8 - ending], key[len(key) - ending :]

    @cached_property
    def _reads_of(self) -> tuple[bytes, bytes]:
        """What :meth:`read_predictions` gives, around a whole-number id."""
        command, key = pack(b"HMGET", self.key(0), *self.fields), self.key(0)
        at = command.index(key) + len(self._around_key[0])
        return command[:at], command[at + 8 :]

    def key(self, user_id: int | str) -> bytes:
        """Key of a user's hash."""
        if isinstance(user_id, int):  # keys of whole numbers differ in 8 bytes
            before, after = self._around_key
            return before + _INT64(user_id) + after
        return entity_key(user_id, self.project)

    def remembered_key(self, user_id: int | str) -> bytes:
        """Where a list that was scored on demand is kept: apart from Feast's hash, and gone with the generation."""
        pointer = self.pointer
        return f"prescore:{self.project}:{pointer.model}:fallback:{pointer.generation}:{user_id}".encode()

    def read_predictions(self, user_id: int | str) -> bytes:
        """The packed command that reads a user's predictions in one round trip."""
        if isinstance(user_id, int):
            before, after = self._reads_of
            return before + _INT64(user_id) + after
        return pack(b"HMGET", self.key(user_id), *self.fields)

    def read_predictions_of(self, user_ids: Sequence[int | str]) -> list[bytes]:
        """Such a command for each of many users."""
        if self.artifact.schema.user_id_type == "string":
            return [self.read_predictions(user_id) for user_id in user_ids]
        before, after = self._reads_of
        return [before + user_id + after for user_id in map(_INT64, user_ids)]


class Activation:
    """Keeps :attr:`live` equal to what the pointer in the store says.

    Args:
        store: Where the pointer is.
        project: Feast project.
        model: Model to serve.
        metrics: Counts activations.
        warm: Called off the event loop with a new artifact before it is swapped in.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        model: str,
        metrics: WorkerMetrics,
        warm: Callable[[LookupArtifact], None],
    ) -> None:
        self.live: LiveGeneration | None = None
        self.previous: LiveGeneration | None = None
        self.trouble = "the live generation is being read"
        """Why :attr:`live` may not be what the pointer says; empty while it is."""
        self._store, self._project, self._model, self._metrics, self._warm = (
            store,
            project,
            model,
            metrics,
            warm,
        )
        self._refreshing: asyncio.Task[None] | None = None
        self._poll: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to poll."""
        self._poll = asyncio.get_running_loop().create_task(self._poll_forever())

    async def close(self) -> None:
        """Stop polling."""
        tasks = [task for task in (self._poll, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def item_kind(self) -> Literal["int64", "string"] | None:
        """Type of the live generation's item ids; ``None`` while there is none."""
        return None if self.live is None else self.live.artifact.schema.item_id_type

    async def refresh(self) -> None:
        """Read the pointer now and follow it; callers at one time share one reading. Never raises."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._follow())
        await asyncio.shield(self._refreshing)

    async def _poll_forever(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def _follow(self) -> None:
        try:
            raw = await self._store.call(b"GET", pointer_key(self._project, self._model))
            if raw is None:
                self._complain(f"no generation of model {self._model!r} is live in the store")
                return
            pointer = LivePointer.decode(raw)
            if self.live is None or pointer != self.live.pointer:
                await self._activate(pointer)
            self.trouble = ""
        except StoreError as error:
            self._complain(str(error))
        except (msgspec.MsgspecError, ValueError) as error:
            self._complain(f"the live pointer cannot be read: {error}")
        except PrescoreError as error:
            self._complain(f"the live generation cannot be activated: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a foreign artifact provokes, polling must go on
            self._complain(f"the live generation cannot be activated: {error!r}")

    async def _activate(self, pointer: LivePointer) -> None:
        artifact = self._known(pointer)
        if artifact is None:
            artifact = await asyncio.to_thread(self._load, pointer)
        new = LiveGeneration(pointer, artifact, self._project)
        _ = (
            new.published,
            new.origins,
            new.default_list,
            new.inputs,
        )  # a pointer that cannot be used must fail here, not in a request
        same = self.live is not None and self.live.pointer.generation == pointer.generation
        if not same:
            self.previous = self.live
        self.live = new
        if same:  # its slot is being changed in place, or no longer
            return
        self._metrics.event("activated")
        log.info(
            "generation_activated",
            generation=pointer.generation,
            slot=pointer.slot,
            model_id=pointer.model_id,
        )

    def _known(self, pointer: LivePointer) -> LookupArtifact | None:
        for held in (self.live, self.previous):  # a rollback needs no loading
            if held is not None and held.pointer.generation == pointer.generation:
                return held.artifact
        return None

    def _load(self, pointer: LivePointer) -> LookupArtifact:
        artifact = LookupArtifact.load(Path(pointer.artifact))
        if artifact.generation != pointer.generation:
            raise PrescoreError(
                "the look-up artifact belongs to another generation",
                expected=pointer.generation,
                got=artifact.generation,
            )
        self._warm(artifact)
        return artifact

    def _complain(self, why: str) -> None:
        if why != self.trouble:
            with contextlib.suppress(OSError):
                log.warning("activation_trouble", why=why)
        self.trouble = why
