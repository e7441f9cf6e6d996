"""What is known of a model beside its bundle, and what was decided about it: frozen rows of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

Alias = Literal["champion", "challenger"]
PromotionVerdict = Literal["promoted", "by_hand", "refused"]

CHAMPION: Alias = "champion"
"""The model that is scored with unless another one is named."""

CHALLENGER: Alias = "challenger"
"""The last one that was trained or imported and has not become champion."""


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model bundle that the catalogue knows.

    Attributes:
        id: Content-derived id of the bundle.
        name: The model's name.
        path: Folder of the bundle.
        metrics: What its evaluation measured, as in ``metrics.json``; empty for an imported one.
        lineage: Cut-off, fingerprints of data and feature builds, parameters, versions; empty where not known.
        aliases: Names that stand for it at present.
        created_at: When it was registered, UTC.
        retired_at: When it was retired, UTC; ``None``: it is not.
        retired_reason: Why.
        generations: Ids of the generations that were made with it, newest first.
        live: Whether one of them is served.
    """

    id: str
    name: str
    path: str
    metrics: Mapping[str, Any] = field(hash=False)
    lineage: Mapping[str, Any] = field(hash=False)
    aliases: tuple[Alias, ...]
    created_at: datetime
    retired_at: datetime | None
    retired_reason: str
    generations: tuple[str, ...]
    live: bool


@dataclass(frozen=True, kw_only=True)
class PromotionGate:
    """What one promotion gate measured.

    Attributes:
        gate: Its name, such as ``ndcg@10`` or ``coverage@10``.
        champion, challenger: The measure of each; ``None``: there is nothing to measure.
        measured: What is compared with the limit; ``None``: nothing to compare, which passes.
        allowed: The limit, as a person reads it.
        verdict: ``passed`` or ``failed``.
        reason: What explains the verdict.
    """

    gate: str
    champion: float | None
    challenger: float | None
    measured: float | None
    allowed: str
    verdict: Literal["passed", "failed"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A decision about who is champion.

    Attributes:
        name: The model's name.
        model_id: The one that was to become champion.
        previous: The champion at that time; empty: there was none.
        verdict: ``promoted`` by the gates (or as the first), ``by_hand``, or ``refused``.
        reason: Why, in words.
        gates: What was measured; none for the first model and by hand.
        decided_at: When, UTC.
    """

    name: str
    model_id: str
    previous: str
    verdict: PromotionVerdict
    reason: str
    gates: Sequence[PromotionGate] = ()
    decided_at: datetime | None = None

    @property
    def champion(self) -> str:
        """The champion after the decision."""
        return self.previous if self.verdict == "refused" else self.model_id
