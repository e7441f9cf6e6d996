"""What each worker does in a boosting: binds its part of the rows into bins, and adds trees in step with the others.

XGBoost's own ``xgboost.dask.train`` is not used: it holds a lock of the scheduler's while it trains, and where the
client is killed meanwhile nobody lets it go, so the next training on that scheduler would wait for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xgboost
from distributed import get_worker
from distributed.comm.addressing import get_address_host
from xgboost.dask import CommunicatorContext
from xgboost.tracker import RabitTracker

from materialize.training.stored_values import StoredValues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Worker

    from features.schema import FeatureSchema
    from materialize.training.stopping import Stopping
    from materialize.training.training_rows import TrainingRows


@dataclass(frozen=True)
class Recipe:
    """What all workers of a boosting are told alike.

    Attributes:
        parameters: XGBoost's.
        rounds: Most rounds to add.
        schema: Names and types of the columns.
        ranking: Whether a list's rows belong together, and have no weights.
        begun: UBJSON of the booster to add to; empty: none.
    """

    parameters: dict[str, Any]
    rounds: int
    schema: FeatureSchema
    ranking: bool
    begun: bytes

    def matrix(
        self, rows: TrainingRows, cache: Path, measured_by: xgboost.DMatrix | None = None
    ) -> xgboost.DMatrix:
        """Rows in bins to learn from, or rows to measure on what was learned. Every worker must do this at the same time.

        Rows whose values are in a file are read batch by batch; then the bins are in files of the folder ``cache``.

        Args:
            rows: The rows.
            cache: Folder for files.
            measured_by: What is learned from, if these rows are to measure on.
        """
        options = {"enable_categorical": True, "nthread": threads()}
        if isinstance(rows.values, StoredValues):
            batches = _Batches(rows, rows.values, self, str(cache / uuid4().hex))
            return xgboost.ExtMemQuantileDMatrix(batches, ref=measured_by, **options)
        # A tree finds the same leaves for numbers as for their bins, and several times as fast.
        kind = xgboost.QuantileDMatrix if measured_by is None else xgboost.DMatrix
        return kind(**self.inputs(rows), **options)

    def inputs(self, rows: TrainingRows) -> dict[str, Any]:
        """What XGBoost is told of rows."""
        values = rows.values.read() if isinstance(rows.values, StoredValues) else rows.values
        return {
            "data": values,
            "label": rows.labels,
            **({"qid": rows.groups} if self.ranking else {"weight": rows.weights}),
            "feature_names": self.schema.names,
            "feature_types": [column.feature_type for column in self.schema.columns],
        }


class _Batches(xgboost.DataIter):
    """A worker's rows for XGBoost, in batches that cut no list."""

    def __init__(self, rows: TrainingRows, values: StoredValues, recipe: Recipe, cache: str) -> None:
        self._rows, self._recipe = rows, recipe
        self._slices = [part for part in rows.split(len(list(values.batches()))) if part.stop > part.start]
        self._parts: Iterator[slice] = iter(())
        super().__init__(cache_prefix=cache)

    def reset(self) -> None:
        """Called by XGBoost before each of its passes."""
        self._parts = iter(self._slices)

    def next(self, input_data: Callable[..., None]) -> bool:
        """Called by XGBoost for the next batch; false: there is none."""
        part = next(self._parts, None)
        if part is None:
            return False
        input_data(**self._recipe.inputs(self._rows.between(part.start, part.stop)))
        return True


@dataclass(eq=False)
class Watch(xgboost.callback.TrainingCallback):
    """Ends boosting, alike on every worker; one of them tells the client each round's metric, and now and then its state.

    Attributes:
        topic: What the client listens to.
        stopping: When to end.
        curve: Metrics of the rounds so far.
        every_seconds: Time between two states; ``None``: none.
    """

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
        wanted = True
        if xgboost.collective.get_rank() == 0:
            wanted, state = _is_wanted(), None
            if self.every_seconds is not None and time.monotonic() - self.saved >= self.every_seconds:
                state = (bytes(model.save_raw("ubj")), self.curve)
                self.saved = time.monotonic()
            get_worker().log_event(self.topic, (len(self.curve) - 1, self.curve[-1], state))
        # A client that has gone away would otherwise leave the workers of a remote scheduler busy to the last round.
        return not xgboost.collective.broadcast(wanted, 0) or self.stopping.ends(self.curve)


def _is_wanted() -> bool:
    """Whether somebody still waits for the task that this is called in."""
    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state == "executing"


def threads() -> int:
    """Threads of the worker that this runs on."""
    return int(get_worker().state.nthreads)


def start_tracker(workers: int, dask_worker: Worker) -> dict[str, Any]:
    """Let so many workers meet at this one, which the others can reach.

    Returns:
        What :func:`train_part` needs to know of the meeting.
    """
    tracker = RabitTracker(n_workers=workers, host_ip=get_address_host(dask_worker.address), sortby="task")
    tracker.start()
    # It ends with the boosting; a daemon does not keep a worker that is stopped meanwhile.
    Thread(target=tracker.wait_for, name="tracker", daemon=True).start()
    meeting: dict[str, Any] = tracker.worker_args()
    return meeting


def train_part(
    rows: TrainingRows,
    validation: TrainingRows | None,
    recipe: Recipe,
    watch: Watch,
    meeting: dict[str, Any],
) -> tuple[bytes, list[float]]:
    """Boost on one worker's part, while the others do on theirs.

    Args:
        rows: To learn from.
        validation: To measure on; ``None``: on the rows themselves.
        recipe: The same for all workers.
        watch: Likewise.
        meeting: Result of :func:`start_tracker`.

    Returns:
        UBJSON of the booster, and the metric per round, rounds before this call included: the same on all workers.
    """
    with (
        TemporaryDirectory(dir=get_worker().local_directory, prefix="bins-") as folder,
        CommunicatorContext(**meeting),
        xgboost.config_context(verbosity=0),
    ):
        matrix = recipe.matrix(rows, Path(folder))
        measured = matrix if validation is None else recipe.matrix(validation, Path(folder), matrix)
        booster = xgboost.train(
            {**recipe.parameters, "nthread": threads()},
            matrix,
            num_boost_round=recipe.rounds,
            evals=[(measured, "measured")],
            xgb_model=xgboost.Booster(model_file=bytearray(recipe.begun)) if recipe.begun else None,
            callbacks=[watch],
            verbose_eval=False,
        )
        return bytes(booster.save_raw("ubj")), watch.curve
