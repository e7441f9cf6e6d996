"""Boosts a forest on a Dask cluster: rows to workers, rounds with progress, early stopping, always the same bytes.

One part of the rows goes to each worker, in the order of the workers' names, and stays there: the same
rows on a cluster of the same shape give the same booster.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xgboost
from distributed import KilledWorker, get_worker, wait
from distributed.client import FutureCancelledError
from xgboost import dask as dask_xgboost

from features.errors import RetryableError
from materialize.cluster import device

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.settings import TrainingSettings

TOPIC = "prescore-boosting"

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
) -> Boosted:
    """Train a booster on the cluster.

    Args:
        client: Of a cluster that keeps its workers: boosting does not survive the loss of one.
        rows: To learn from.
        schema: Names and types of the columns.
        settings: Objective, depth, learning rate, early stopping, seed.
        rounds: Most rounds.
        validation: Stop when the metric on these rows has not improved for ``early_stopping_rounds``.
        on_round: Called with the round's number (from 0) and the metric.

    Raises:
        RetryableError: If the cluster fails or loses a worker.
    """
    ranking = settings.objective.startswith("rank:")
    parameters = {
        "objective": settings.objective,
        "eval_metric": "ndcg@10" if ranking else "logloss",
        "max_depth": settings.depth,
        "eta": settings.eta,
        "max_delta_step": 0 if ranking else 1,
        "tree_method": "hist",
        "device": device(client),
        "seed": settings.seed,
        "verbosity": 0,
    }
    workers = _workers(client)

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
            num_boost_round=rounds,
            evals=evals,
            early_stopping_rounds=settings.early_stopping_rounds if validation is not None else None,
            callbacks=[_Watch()],
            verbose_eval=False,
        )

    try:
        result = _watched(client, workers, train, on_round)
    except (RuntimeError, OSError, FutureCancelledError, KilledWorker, xgboost.core.XGBoostError) as error:
        raise RetryableError(
            "training failed on the cluster",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="run it again; if workers run out of memory, raise [cluster] memory_per_worker or lower [training] max_rows",
        ) from error
    booster: xgboost.Booster = result["booster"]
    curve = [float(v) for v in next(iter(next(iter(result["history"].values())).values()))]
    best = booster.best_iteration + 1 if validation is not None else booster.num_boosted_rounds()
    return Boosted(booster, best, curve)


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


class _Watch(xgboost.callback.TrainingCallback):
    """Tells the client each round's metric; only one worker does."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Called by XGBoost on every worker."""
        del model
        if xgboost.collective.get_rank() == 0 and evals_log:
            metric = next(iter(next(iter(evals_log.values())).values()))
            get_worker().log_event(TOPIC, (epoch, float(metric[-1])))
        return False


def _watched(
    client: Client,
    workers: list[str],
    train: Callable[[], Any],
    on_round: Callable[[int, float], None] | None,
) -> Any:
    """Call ``train`` in another thread; report its rounds in this one, and fail as soon as a worker is gone.

    XGBoost would wait for ever: the others for their peer, Dask for a worker with the address of the lost one.
    """
    rounds: SimpleQueue[tuple[int, float]] = SimpleQueue()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(train())
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            outcome.append(error)

    client.subscribe_topic(TOPIC, lambda event: rounds.put(event[1]))
    # A daemon: it must not keep the process alive when the caller has given up.
    thread = Thread(target=run, name="boosting", daemon=True)
    thread.start()
    try:
        while thread.is_alive() or not rounds.empty():
            with suppress(Empty):
                found = rounds.get(timeout=POLL_SECONDS)
                if on_round is not None:
                    on_round(*found)
            lost = set(workers) - set(client.scheduler_info(n_workers=-1)["workers"])
            if lost and thread.is_alive():
                raise RuntimeError(f"{len(lost)} of {len(workers)} workers were lost")
    finally:
        client.unsubscribe_topic(TOPIC)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def _workers(client: Client) -> list[str]:
    """Addresses in the order of the workers' names, which outlive a restart; addresses do not."""
    found = client.scheduler_info(n_workers=-1)["workers"]
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
