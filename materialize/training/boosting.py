"""Boosts a forest on a Dask cluster: rows to workers, rounds with progress, early stopping, always the same bytes.

One part of the rows goes to each worker, in the order of the workers' names, and stays there: the same
rows on a cluster of the same shape give the same booster, also when boosting goes on from a checkpoint:
nothing in it is drawn, and trees are added to the margins in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import xgboost
from distributed import KilledWorker
from distributed.client import FutureCancelledError

from features.errors import RetryableError
from materialize.cluster import device
from materialize.training.stopping import Boosted, Stopping
from materialize.training.watched_workers import watched, workers_by_name
from materialize.training.worker_training import Recipe, Watch, start_tracker, train_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from features.schema import FeatureSchema
    from materialize.training.checkpoint import Checkpoint, Unfinished
    from materialize.training.training_rows import TrainingRows
    from materialize.training_settings import TrainingSettings


def boost(
    client: Client,
    rows: TrainingRows,
    schema: FeatureSchema,
    settings: TrainingSettings,
    *,
    rounds: int,
    validation: TrainingRows | None = None,
    limits: tuple[float, ...] = (),
    on_round: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Boosted:
    """Train a booster on the cluster.

    Args:
        client: Of a cluster that keeps its workers: boosting does not survive the loss of one.
        rows: To learn from.
        schema: Names and types of the columns.
        settings: Objective, depth, learning rate, early stopping, seed.
        rounds: Most rounds.
        validation: Stop when the metric on these rows has not improved for ``early_stopping_rounds``.
        limits: Give up when the metric on these rows is worse than that, by round; see :class:`Stopping`.
        on_round: Called with the round's number (from 0) and the metric; rounds of an earlier attempt included.
        checkpoint: Where an earlier attempt may have left its state, and this one keeps its own; removing it
            when the model is safe is the caller's.

    Raises:
        RetryableError: If the cluster fails or loses a worker.
        StorageError: If the checkpoint cannot be written.
    """
    ranking = is_ranking(settings)
    parameters = {
        "objective": settings.objective,
        "eval_metric": metric_name(settings),
        "max_depth": settings.depth,
        "eta": settings.eta,
        "max_delta_step": 0 if ranking else 1,
        "min_child_weight": least_in_leaf(settings, rows),
        "lambda": settings.l2,
        "tree_method": "hist",
        "device": device(client),
        "seed": settings.seed,
        "verbosity": 0,
    }
    workers = workers_by_name(client)
    topic = (
        f"prescore-boosting-{uuid4().hex}"  # what a boosting that was given up still says is not for this one
    )
    patience = settings.early_stopping_rounds if validation is not None else None
    stopping = Stopping(patience, rising=is_ranking(settings), limits=limits)
    found = checkpoint.load() if checkpoint is not None else None
    start = found.curve if found is not None else []
    for number, metric in enumerate(start):
        if on_round is not None:
            on_round(number, metric)
    if found is not None and (len(start) >= rounds or stopping.ends(start)):
        return stopping.boosted(_booster(found.model), start)

    def train() -> Boosted:
        begun = found.model if found is not None else b""
        recipe = Recipe(parameters, rounds - len(start), schema, is_ranking(settings), begun)
        watch = Watch(topic, stopping, list(start), checkpoint.every_seconds if checkpoint else None)
        return stopping.boosted(*_train(client, workers, rows, validation, recipe, watch))

    def report(number: int, metric: float, state: Unfinished | None) -> None:
        if state is not None and checkpoint is not None:
            checkpoint.save(state)
        if on_round is not None:
            on_round(number, metric)

    try:
        boosted: Boosted = watched(client, workers, topic, train, report)
    except (RuntimeError, OSError, FutureCancelledError, KilledWorker, xgboost.core.XGBoostError) as error:
        raise RetryableError(
            "training failed on the cluster",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="run it again; if workers run out of memory, raise [cluster] memory_per_worker or lower [training] max_rows",
        ) from error
    return boosted


def is_ranking(settings: TrainingSettings) -> bool:
    """Whether lists are learned, rather than pairs; then more of the metric is better."""
    return settings.objective.startswith("rank:")


def metric_name(settings: TrainingSettings) -> str:
    """What each round is measured by, as XGBoost calls it."""
    return "ndcg@10" if is_ranking(settings) else "logloss"


def least_in_leaf(settings: TrainingSettings, rows: TrainingRows) -> float:
    """Least weight (of uncertainty) in a leaf: what few pairs did says little, least of all of another month."""
    if settings.leaf_weight is not None:
        return settings.leaf_weight
    return 1.0 if is_ranking(settings) else float(np.clip(rows.labels.sum() / 50, 1, 20))


def _booster(model: bytes) -> xgboost.Booster:
    return xgboost.Booster(model_file=bytearray(model))


def model_bytes(booster: xgboost.Booster) -> bytes:
    """The booster's UBJSON, without what early stopping left in its attributes."""
    booster.set_attr(best_iteration=None, best_score=None)
    return bytes(booster.save_raw("ubj"))


def gain_by_feature(booster: xgboost.Booster) -> dict[str, float]:
    """Each feature's share of the total gain, largest first; unused ones are left out."""
    gains = {
        name: float(np.sum(gain)) for name, gain in booster.get_score(importance_type="total_gain").items()
    }
    total = sum(gains.values()) or 1.0
    return {name: gain / total for name, gain in sorted(gains.items(), key=lambda entry: -entry[1])}


def cluster_shape(client: Client) -> dict[str, Any]:
    """What of the cluster decides the booster's bytes."""
    return {"workers": len(workers_by_name(client)), "device": device(client)}


def _train(
    client: Client,
    workers: list[str],
    rows: TrainingRows,
    validation: TrainingRows | None,
    recipe: Recipe,
    watch: Watch,
) -> tuple[xgboost.Booster, list[float]]:
    """Give each worker its part, and let them boost together.

    A worker that there are no rows for has no part in it.
    """
    parts = [part for part in rows.split(len(workers)) if part.stop > part.start]
    workers = workers[: len(parts)]
    measured = [None] * len(parts) if validation is None else validation.split(len(parts))

    def placed(whole: TrainingRows | None, part: slice | None, worker: str) -> Any:
        if whole is None or part is None:
            return None
        return client.scatter(whole.between(part.start, part.stop), workers=[worker], hash=False)

    meeting = client.run(start_tracker, len(parts), workers=workers[:1])[workers[0]]
    futures = [
        client.submit(
            train_part,
            placed(rows, part, worker),
            placed(validation, held_out, worker),
            recipe,
            watch,
            meeting,
            workers=[worker],
            pure=False,
            retries=0,
        )
        for part, held_out, worker in zip(parts, measured, workers, strict=True)
    ]
    model, curve = client.gather(futures)[0]
    return _booster(model), curve
