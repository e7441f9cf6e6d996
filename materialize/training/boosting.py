"""Boosts a forest on a Dask cluster: rows to workers, rounds with progress, early stopping, always the same bytes.

One part of the rows goes to each worker, in the order of the workers' names, and stays there: the same
rows on a cluster of the same shape give the same booster, also when boosting goes on from a checkpoint:
nothing in it is drawn, and trees are added to the margins in their order.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
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
from materialize.training.checkpoint import Checkpoint, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.settings import TrainingSettings

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one training set.

    Attributes:
        values: float32[n, features] in schema order; NaN is missing.
        labels: float32[n], 0 or 1.
        weights: float32[n]: how many pairs a row stands for.
        groups: int64[n]: the list (user in a window) a row belongs to; sorted.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, parts: list[TrainingRows]) -> TrainingRows:
        """Rows one after the other; groups of different parts stay different."""
        if len(parts) == 1:
            return parts[0]
        firsts = np.cumsum([0, *(int(p.groups[-1]) + 1 if len(p) else 0 for p in parts[:-1])])
        return cls(
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.weights for p in parts]),
            np.concatenate([p.groups + first for p, first in zip(parts, firsts, strict=True)]),
        )

    def where(self, keep: NDArray[np.bool_]) -> TrainingRows:
        """The rows for which ``keep`` is true."""
        return TrainingRows(self.values[keep], self.labels[keep], self.weights[keep], self.groups[keep])

    def between(self, start: int, stop: int) -> TrainingRows:
        """Rows from ``start`` to before ``stop``, without a copy."""
        part = np.s_[start:stop]
        return TrainingRows(self.values[part], self.labels[part], self.weights[part], self.groups[part])

    def split(self, n: int) -> list[slice]:
        """``n`` slices of about equal length that cut no group."""
        edges = [0]
        for part in range(1, n):
            wanted = max(edges[-1], len(self) * part // n)
            inside = wanted < len(self)
            edges.append(int(np.searchsorted(self.groups, self.groups[wanted])) if inside else len(self))
        return [slice(a, max(a, b)) for a, b in zip(edges, [*edges[1:], len(self)], strict=True)]


@dataclass(frozen=True)
class Boosted:
    """What boosting gave.

    Attributes:
        booster: All rounds that ran.
        rounds: Those that count: up to the best one on the validation rows, or all.
        curve: The metric on the validation rows (else on the training rows), per round.
    """

    booster: xgboost.Booster
    rounds: int
    curve: list[float]


def boost(
    client: Client,
    rows: TrainingRows,
    schema: FeatureSchema,
    settings: TrainingSettings,
    *,
    rounds: int,
    validation: TrainingRows | None = None,
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
        on_round: Called with the round's number (from 0) and the metric; rounds of an earlier attempt included.
        checkpoint: Where an earlier attempt may have left its state, and this one keeps its own; removing it
            when the model is safe is the caller's.

    Raises:
        RetryableError: If the cluster fails or loses a worker.
        StorageError: If the checkpoint cannot be written.
    """
    ranking = settings.objective.startswith("rank:")
    parameters = {
        "objective": settings.objective,
        "eval_metric": metric_name(settings),
        "max_depth": settings.depth,
        "eta": settings.eta,
        "max_delta_step": 0 if ranking else 1,
        "min_child_weight": 1 if ranking else _least_in_leaf(rows),
        "tree_method": "hist",
        "device": device(client),
        "seed": settings.seed,
        "verbosity": 0,
    }
    workers = _workers(client)
    topic = (
        f"prescore-boosting-{uuid4().hex}"  # what a boosting that was given up still says is not for this one
    )
    patience = settings.early_stopping_rounds if validation is not None else None
    stopping = Stopping(patience, rising=ranking)
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
        result = _watched(client, workers, topic, train, report)
    except (RuntimeError, OSError, FutureCancelledError, KilledWorker, xgboost.core.XGBoostError) as error:
        raise RetryableError(
            "training failed on the cluster",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="run it again; if workers run out of memory, raise [cluster] memory_per_worker or lower [training] max_rows",
        ) from error
    booster: xgboost.Booster = result["booster"]
    curve = [*start, *(float(v) for v in next(iter(next(iter(result["history"].values())).values())))]
    return stopping.boosted(booster, curve)


def metric_name(settings: TrainingSettings) -> str:
    """What each round is measured by, as XGBoost calls it."""
    return "ndcg@10" if settings.objective.startswith("rank:") else "logloss"


def _least_in_leaf(rows: TrainingRows) -> float:
    """Least weight (of uncertainty) in a leaf: what few pairs did says little, least of all of another month."""
    return float(np.clip(rows.labels.sum() / 50, 1, 20))


@dataclass(frozen=True)
class Stopping:
    """When boosting ends before its last round; a pure function of the curve, so that it survives a restart.

    Attributes:
        patience: Rounds without a better metric; ``None``: never.
        rising: Whether more is better.
    """

    patience: int | None
    rising: bool

    def best(self, curve: list[float]) -> int:
        """The first round, from 0, with the best metric."""
        return curve.index(max(curve) if self.rising else min(curve))

    def ends(self, curve: list[float]) -> bool:
        """Whether the round that gave the last value of the curve is the last one."""
        return self.patience is not None and len(curve) - 1 - self.best(curve) >= self.patience

    def boosted(self, booster: xgboost.Booster, curve: list[float]) -> Boosted:
        """What boosting gave; the booster says which of its rounds was the best, as XGBoost's own early stopping does."""
        if self.patience is None:
            return Boosted(booster, booster.num_boosted_rounds(), curve)
        booster.set_attr(best_iteration=str(self.best(curve)))
        return Boosted(booster, self.best(curve) + 1, curve)


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
    return {"workers": len(_workers(client)), "device": device(client)}


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


def _watched(
    client: Client,
    workers: list[str],
    topic: str,
    train: Callable[[], Any],
    report: Callable[[int, float, Unfinished | None], None],
) -> Any:
    """Call ``train`` in another thread; report its rounds in this one, and fail as soon as a worker is gone.

    XGBoost would wait for ever: the others for their peer, Dask for a worker with the address of the lost one.
    """
    rounds: SimpleQueue[tuple[int, float, tuple[bytes, list[float]] | None]] = SimpleQueue()
    outcome: list[Any] = []

    def run() -> None:
        try:
            # XGBoost and Dask wait in the loop of the current client: the process's newest one, unless told.
            with client.as_current():
                outcome.append(train())
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            outcome.append(error)

    client.subscribe_topic(topic, lambda event: rounds.put(event[1]))
    # A daemon: it must not keep the process alive when the caller has given up.
    thread = Thread(target=run, name="boosting", daemon=True)
    thread.start()
    try:
        while thread.is_alive() or not rounds.empty():
            with suppress(Empty):
                number, metric, state = rounds.get(timeout=POLL_SECONDS)
                report(number, metric, None if state is None else Unfinished(state[0], list(state[1])))
            lost = set(workers) - set(_registered(client))
            if lost and thread.is_alive():
                raise RuntimeError(f"{len(lost)} of {len(workers)} workers were lost")
    finally:
        client.unsubscribe_topic(topic)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def _registered(client: Client) -> dict[str, Any]:
    """The scheduler's workers by address, asked anew.

    ``Client.scheduler_info`` may answer with what the client's own timer asked for meanwhile, which is no worker at all.
    """
    scheduler: Any = client.scheduler
    workers: dict[str, Any] = client.sync(scheduler.identity, n_workers=-1)["workers"]
    return workers


def _workers(client: Client) -> list[str]:
    """Addresses in the order of the workers' names, which outlive a restart; addresses do not."""
    found = _registered(client)
    return sorted(
        found, key=lambda address: json.dumps([str(type(n := found[address]["name"])), str(n).zfill(12)])
    )


def _distribute(
    client: Client,
    rows: TrainingRows,
    schema: FeatureSchema,
    *,
    ranking: bool,
    reference: dask_xgboost.DaskQuantileDMatrix | None = None,
) -> dask_xgboost.DaskQuantileDMatrix:
    workers = _workers(client)
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
