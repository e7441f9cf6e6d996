"""The rows of the catalogue as frozen dataclasses: what passes between planning, running, gates and flip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

State = Literal["building", "validated", "live", "retired", "rejected"]
Kind = Literal["full", "delta"]
Slot = Literal["a", "b"]
Verdict = Literal["passed", "failed", "overridden"]

LEGAL_TRANSITIONS: Mapping[State, frozenset[State]] = {
    "building": frozenset({"validated", "rejected"}),
    "validated": frozenset({"live", "rejected", "building"}),
    "live": frozenset({"retired", "rejected"}),
    "retired": frozenset({"live"}),
    "rejected": frozenset({"building"}),
}
"""Where a generation may go from each state. ``rejected → building`` is another attempt at the same
inputs; ``validated → building`` means that its slot was overwritten before it was flipped."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model bundle that the catalogue knows.

    Attributes:
        id: Content-derived id of the bundle.
        name: Name that generations and Feast views carry.
        path: Folder of the bundle.
        schema_hash: Hash of its feature schema.
        metrics: What its evaluation measured, as in ``metrics.json``.
        created_at: When it was registered, UTC.
    """

    id: str
    name: str
    path: str
    schema_hash: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One published set of predictions.

    Attributes:
        id: ``<cut-off name>-<8 hex digits>``, a function of the inputs.
        model: The model's name.
        model_id: Id of the model bundle.
        kind: ``full``, or ``delta`` on ``parent``.
        parent: Id of the generation that a delta stands on; empty for a full one.
        feature_cutoff: The instant before which all features were computed, UTC.
        state: Where it is on its way.
        slot: The slot that holds it; ``None`` when another generation has overwritten it.
        entering: The live generation's slot while that is being changed into this one, row by row.
        k: Length of a list.
        users: Users that were planned.
        items: Items that could be recommended.
        rows: Rows of its scored table.
        fence: Fencing token of the run that wrote it last.
        reason: Why it was rejected, or what was overridden.
        created_at: When it was begun, UTC.
        published_at: When it was last flipped to, UTC.
    """

    id: str
    model: str
    model_id: str
    feature_cutoff: datetime
    k: int
    users: int
    items: int
    kind: Kind = "full"
    parent: str = ""
    state: State = "building"
    slot: Slot | None = None
    entering: Slot | None = None
    rows: int = 0
    fence: int = 0
    reason: str = ""
    created_at: datetime | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a generation that has been scored and written to a file.

    Attributes:
        generation: Id of the generation.
        number: From 0, in order of the user hash.
        path: Parquet file of the scored rows; empty where the block has no user.
        users: Users with a list in the file; of a delta, those whose list changed.
        rows: Rows of the file.
        sha256: Of the file.
        accepted: Users' rows that the store accepted into the slot; ``None``: not loaded yet, or overwritten.
        lists: Users with a list in the generation, unchanged ones included.
        gone: Users whose list a delta removed.
        rescored: Users who were scored against all items.
        merged: Users whose old list was merged with the scores of changed items.
    """

    generation: str
    number: int
    path: str
    users: int
    rows: int
    sha256: str
    accepted: int | None = None
    lists: int = 0
    gone: int = 0
    rescored: int = 0
    merged: int = 0


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What one gate measured.

    Attributes:
        gate: Its name, as in ``--override``.
        measured: The value; ``None`` where there was nothing to measure.
        allowed: The limit, as a person reads it, such as ``at least 0.99``.
        verdict: ``passed``, ``failed``, or ``overridden``: failed, and let through with a reason.
        reason: The override's reason, or what explains the verdict.
    """

    gate: str
    measured: float | None
    allowed: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One change of the live generation.

    Attributes:
        id: Rising number.
        model: The model's name.
        generation: Id of the generation that went live.
        previous: Id of the one that was live before; empty for the first.
        fence: Fencing token it was written under; the live pointer carries it too.
        reason: Why.
        flipped_at: When the catalogue changed, UTC.
        completed_at: When the store and Feast had followed, UTC; ``None``: they may not have.
    """

    id: int
    model: str
    generation: str
    previous: str
    fence: int
    reason: str
    flipped_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True)
class Fence:
    """The right to publish a model, until someone else takes it.

    Attributes:
        model: The model's name.
        token: Rises with every holder; a write under a smaller one is refused.
        owner: Who holds it, for the other publisher's error message.
    """

    model: str
    token: int
    owner: str
