"""Boosts a forest on a Dask cluster: rows to workers, rounds with progress, early stopping, always the same bytes.

One part of the rows goes to each worker, in the order of the workers' names, and stays there: the same
rows on a cluster of the same shape give the same booster, also when boosting goes on from a checkpoint:
nothing in it is drawn, and trees are added to the margins in their order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xgboost
from distributed import KilledWorker, get_worker, wait
from distributed.client import FutureCancelledError
from xgboost import dask as dask_xgboost

from features.errors import RetryableError
from materialize.cluster import device
from materialize.training.stopping import Boosted, Stopping
from materialize.training.watched_workers import watched, workers_by_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.settings import TrainingSettings
    from materialize.training.checkpoint import Checkpoint, Unfinished
    from materialize.training.training_rows import TrainingRows


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
    start, begun = (found.curve, _booster(found.model)) if found is not None else ([], None)
    for number, metric in enumerate(start):
        if on_round is not None:
            on_round(number, metric)
    if begun is not None and (len(start) >= rounds or stopping.ends(start)):
        return stopping.boosted(begun, start)

    def train() -> Any:
        matrix = _distribute(client, rows, schema, ranking=ranking)
        evals = [(matrix, "rows")]
        if validation is not None:
            evals = [
                (_distribute(client, validation, schema, ranking=ranking, reference=matrix), "validation")
            ]
        return dask_xgboost.train(
            client,
            parameters,
            matrix,
            num_boost_round=rounds - len(start),
            xgb_model=begun,
            evals=evals,
            callbacks=[
                _Watch(topic, stopping, list(start), checkpoint.every_seconds if checkpoint else None)
            ],
            verbose_eval=False,
        )

    def report(number: int, metric: float, state: Unfinished | None) -> None:
        if state is not None and checkpoint is not None:
            checkpoint.save(state)
        if on_round is not None:
            on_round(number, metric)

    try:
        result = watched(client, workers, topic, train, report)
    except (RuntimeError, OSError, FutureCancelledError, KilledWorker, xgboost.core.XGBoostError) as error:
        raise RetryableError(
            "training failed on the cluster",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="run it again; if workers run out of memory, raise [cluster] memory_per_worker or lower [training] max_rows",
        ) from error
    booster: xgboost.Booster = result["booster"]
    curve = [*start, *(float(v) for v in next(iter(next(iter(result["history"].values())).values())))]
    return stopping.boosted(booster, curve)


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


@dataclass(eq=False)
class _Watch(xgboost.callback.TrainingCallback):
    """Ends boosting, alike on every worker; one of them tells the client each round's metric, and now and then its state."""

    topic: str
    stopping: Stopping
    curve: list[float]
    every_seconds: float | None
    saved: float = field(default_factory=time.monotonic)

    def before_training(self, model: Any) -> Any:
        """Called by XGBoost on every worker, whose clocks differ."""
        self.saved = time.monotonic()
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Called by XGBoost on every worker; true ends boosting."""
        del epoch
        self.curve.append(float(next(iter(next(iter(evals_log.values())).values()))[-1]))
        if xgboost.collective.get_rank() == 0:
            state = None
            if self.every_seconds is not None and time.monotonic() - self.saved >= self.every_seconds:
                state = (bytes(model.save_raw("ubj")), self.curve)
                self.saved = time.monotonic()
            get_worker().log_event(self.topic, (len(self.curve) - 1, self.curve[-1], state))
        return self.stopping.ends(self.curve)


def _distribute(
    client: Client,
    rows: TrainingRows,
    schema: FeatureSchema,
    *,
    ranking: bool,
    reference: dask_xgboost.DaskQuantileDMatrix | None = None,
) -> dask_xgboost.DaskQuantileDMatrix:
    workers = workers_by_name(client)
    parts = [
        (worker, part)
        for worker, part in zip(workers, rows.split(len(workers)), strict=True)
        if part.stop > part.start
    ]

    def spread(values: NDArray[Any]) -> da.Array:
        chunks = []
        for worker, part in parts:
            held = client.scatter(values[part], workers=[worker], hash=False)
            chunks.append(da.from_delayed(held, shape=values[part].shape, dtype=values.dtype))
        whole: da.Array = da.concatenate(chunks)
        return whole

    optional = {"qid": spread(rows.groups)} if ranking else {"weight": spread(rows.weights)}
    matrix = dask_xgboost.DaskQuantileDMatrix(
        client,
        spread(rows.values),
        spread(rows.labels),
        feature_names=schema.names,
        feature_types=[column.feature_type for column in schema.columns],
        enable_categorical=True,
        ref=reference,
        **optional,
    )
    wait([future for futures in matrix.worker_map.values() for future in futures])
    return matrix
