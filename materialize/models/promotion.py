"""Decides which model is champion: the first one, one that passes the gates, or one that a person puts there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from features.errors import CallerError
from materialize.model_bundle import ModelBundle
from materialize.models.comparison import compare_models
from materialize.models.records import CHALLENGER, CHAMPION, Promotion
from materialize.models.registry import Registry
from materialize.progress import NoProgress

if TYPE_CHECKING:
    from materialize.models.records import RegisteredModel
    from materialize.progress import Progress
    from materialize.settings import Settings

log = structlog.get_logger()

FIRST = "the first model"


def load_bundle(settings: Settings, model: RegisteredModel) -> ModelBundle:
    """The verified bundle of a registered model, from the folder of models.

    Raises:
        NotFoundError, CallerError: If it is gone or damaged.
    """
    return ModelBundle.load(settings.models_path / model.id)


def promote(
    settings: Settings,
    reference: str = CHALLENGER,
    *,
    reason: str = "",
    progress: Progress | None = None,
) -> Promotion:
    """Let a model become champion through the gates, or by hand; the decision is recorded either way.

    Args:
        settings: The whole tree; the tables are read where two models are compared.
        reference: Alias, id or first digits of one.
        reason: By hand, without the gates, for this reason.
        progress: Told of every stage.

    Returns:
        The decision. For the model that is champion already: that, without a record.

    Raises:
        NotFoundError: If there is no such model.
        CallerError: If it is retired and no reason is given.
        SchemaMismatchError: If it does not fit the features of the present settings; before anything is ranked.
        ConflictError: If somebody else has changed the champion meanwhile.
    """
    registry = Registry.open(settings)
    model = registry.find(reference)
    champion = registry.alias(CHAMPION) or ""
    if champion == model.id:
        return Promotion(
            name=model.name,
            model_id=model.id,
            previous=champion,
            verdict="promoted",
            reason="is the champion",
        )
    if model.retired_at is not None and not reason.strip():
        raise CallerError(
            f"model {model.id} is retired",
            got=model.retired_reason,
            fix="say why it comes back: --reason '…'",
        )
    bundle = load_bundle(settings, model)
    decided = Promotion(
        name=model.name, model_id=model.id, previous=champion, verdict="by_hand", reason=reason
    )
    if not reason.strip():
        decided = _judge(settings, registry, decided, bundle, progress or NoProgress())
    log.info("promotion", model=model.id, previous=champion, verdict=decided.verdict, reason=decided.reason)
    return registry.decide(decided)


def promote_unattended(settings: Settings, model_id: str, progress: Progress) -> Promotion:
    """Promote a model that was just trained if the gates allow it; a refusal by the same champion is not measured again."""
    registry = Registry.open(settings)
    champion = registry.alias(CHAMPION) or ""
    for past in registry.promotions(model_id)[:1]:
        if past.verdict == "refused" and past.previous == champion:
            return past
    return promote(settings, model_id, progress=progress)


def _judge(
    settings: Settings, registry: Registry, asked: Promotion, bundle: ModelBundle, progress: Progress
) -> Promotion:
    if not asked.previous:
        return replace(asked, verdict="promoted", reason=FIRST)
    found = compare_models(settings, load_bundle(settings, registry.find(asked.previous)), bundle, progress)
    if found.unfit:
        return replace(
            asked, verdict="promoted", reason=f"the champion no longer fits the features: {found.unfit}"
        )
    days = f"{found.window.start:%Y-%m-%d} to {found.window.end:%Y-%m-%d}, {found.users} users"
    if found.failed:
        reason = f"failed {', '.join(found.failed)} ({days})"
        return replace(asked, verdict="refused", reason=reason, gates=tuple(found.gates))
    reason = f"passed {len(found.gates)} gates ({days})"
    return replace(asked, verdict="promoted", reason=reason, gates=tuple(found.gates))
