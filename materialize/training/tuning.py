"""Searches for better parameters of the boosting: trials on the cluster, each given up once others were better by then.

Trials learn from the older windows and are measured on the newest one, as the search for the number of rounds is; the
evaluation window stays unseen. What was tried is kept in a database, so a search that was interrupted goes on, and one
that is asked for more trials adds them. The draws of a trial depend on the seed and on the trials that have
ended, and it ends by a rule that its workers know beforehand: the same search from the start finds the same.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from features.errors import SettingsError, StorageError
from materialize.training.boosting import boost, is_ranking, least_in_leaf, metric_name
from materialize.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from distributed import Client
    from optuna import Study
    from optuna.trial import FrozenTrial

    from features.schema import FeatureSchema
    from materialize.settings import Settings
    from materialize.training.training_rows import TrainingRows
    from materialize.training_settings import TrainingSettings

SCHEMA = "prescore_tuning"
"""PostgreSQL schema of Optuna's tables, whose names are too plain to stand beside others."""

WHOLE, GIVEN_UP = "whole", "given up"
"""How a trial ended."""

LEAST = 1e-6
"""Nothing smaller is drawn: the scale is logarithmic."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        chosen: The best parameters; empty: those of the settings were the best.
        metric: What was compared, such as ``logloss``.
        best: Its best value.
        untuned: Its value with the parameters of the settings.
        trials: One row per trial, in order: number, parameters, metric, round of the best metric, how it ended.
    """

    chosen: dict[str, Any]
    metric: str
    best: float
    untuned: float
    trials: list[dict[str, Any]]

    @property
    def reason(self) -> str:
        """Why these, for people."""
        given_up = sum(row["ended"] == GIVEN_UP for row in self.trials)
        return (
            f"{self.metric} {self.best:.5f} on the newest window, {self.untuned:.5f} with the settings; "
            f"the best of {len(self.trials)} trials, {given_up} of them given up early"
        )

    def applied(self, training: TrainingSettings) -> TrainingSettings:
        """The settings with what was found."""
        return training.model_copy(update=self.chosen)


class Search:
    """One search: what is tried for one set of rows and settings. Use :meth:`open`."""

    def __init__(
        self, optuna: ModuleType, study: Study, settings: Settings, inputs: Mapping[str, Any]
    ) -> None:
        self._optuna, self._study, self._settings, self._inputs = optuna, study, settings, inputs

    @classmethod
    def open(cls, settings: Settings, inputs: Mapping[str, Any]) -> Search:
        """Begin a search, or go on with that of the same inputs.

        Args:
            settings: ``tuning`` bounds the search; ``catalogue`` says where it is kept: beside the embedded catalogue,
                or in its PostgreSQL.
            inputs: JSON values of all that the rows and the untuned boosting depend on.

        Raises:
            SettingsError: If Optuna is not installed.
            StorageError: If the database cannot be used.
        """
        try:
            import optuna  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise SettingsError(
                "tuning needs Optuna",
                got="[tuning] trials above 0, or --tune",
                fix="pip install 'prescore[tune]'",
            ) from error
        own = settings.tuning.model_dump(mode="json", exclude={"trials"})
        digest = hashlib.sha256(json.dumps({**inputs, "tuning": own}, sort_keys=True).encode()).hexdigest()[
            :16
        ]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(
                storage=_storage(optuna, settings),
                study_name=f"{settings.model}-{digest}",
                direction="maximize" if is_ranking(settings.training) else "minimize",
                load_if_exists=True,
            )
        except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise StorageError(
                "the search for parameters cannot be kept",
                got=type(error.__cause__ or error).__name__,
                fix="check the catalogue's database, and free disk space",
            ) from error
        return cls(optuna, study, settings, inputs)

    def finished(self) -> Tuned | None:
        """What was found, if all trials have ended."""
        ended = self._ended()[: self._settings.tuning.trials]
        if len(ended) < self._settings.tuning.trials:
            return None
        rows = [self._row(number, trial) for number, trial in enumerate(ended, 1)]
        metric = metric_name(self._settings.training)
        whole = [row for row in rows if row["ended"] == WHOLE]
        best = (max if is_ranking(self._settings.training) else min)(whole, key=lambda row: row[metric])
        chosen = {} if best is rows[0] else ended[best["trial"] - 1].params
        return Tuned(dict(chosen), metric, best[metric], rows[0][metric], rows)

    def run(
        self,
        client: Client,
        rows: TrainingRows,
        validation: TrainingRows,
        schema: FeatureSchema,
        on_trial: Callable[[str], None],
    ) -> Tuned:
        """Try until all trials have ended.

        Args:
            client: Of a cluster that keeps its workers.
            rows: To learn from.
            validation: To measure on.
            schema: Names and types of the columns.
            on_trial: Told of each trial that has ended, also before this call.

        Raises:
            RetryableError: If the cluster fails; the same call goes on.
        """
        for trial in self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)  # its process is gone
        for _ in self._ended():
            on_trial("")
        while (tuned := self.finished()) is None:
            on_trial(self._try(client, rows, validation, schema))
        return tuned

    def _try(
        self, client: Client, rows: TrainingRows, validation: TrainingRows, schema: FeatureSchema
    ) -> str:
        """One trial; says how it ended."""
        optuna, settings, ended = self._optuna, self._settings, self._ended()
        own = settings.training
        first = {
            "depth": own.depth,
            "eta": own.eta,
            "leaf_weight": max(LEAST, least_in_leaf(own, rows)),
            "l2": max(LEAST, own.l2),
        }
        if not ended:
            self._study.enqueue_trial(first, skip_if_exists=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=settings.training.seed + len(ended),
                n_startup_trials=settings.tuning.startup_trials,
                multivariate=True,
            )
        trial = self._study.ask(_space(optuna, settings, first))
        training = settings.training.model_copy(update=trial.params)
        checkpoint = Checkpoint.of(settings.models_path, {**self._inputs, **trial.params}, "trial")
        boosted = boost(
            client,
            rows,
            schema,
            training,
            rounds=training.trees,
            validation=validation,
            limits=self._limits(),
            checkpoint=checkpoint,
        )
        for step, metric in enumerate(boosted.curve):
            trial.report(metric, step)
        best = boosted.curve[boosted.rounds - 1]
        if boosted.behind:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, best)
        checkpoint.remove()
        name = metric_name(training)
        return f"trial {len(ended) + 1}: {name} {best:.5f}{' (given up)' if boosted.behind else ''}"

    def _ended(self) -> list[FrozenTrial]:
        states = self._optuna.trial.TrialState
        return self._study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))

    def _limits(self) -> tuple[float, ...]:
        """By round, the median of the trials that were not given up: Optuna's median pruner, decided beforehand.

        Asking Optuna after each round would stop each worker when it hears of it, and never in the same round.
        """
        whole = [t for t in self._ended() if t.state.name == "COMPLETE"]
        if len(whole) < self._settings.tuning.startup_trials:
            return ()
        longest = max(len(t.intermediate_values) for t in whole)
        reached = (
            [t.intermediate_values[n] for t in whole if n in t.intermediate_values] for n in range(longest)
        )
        medians = [float(np.median(metrics)) for metrics in reached]
        warm = min(self._settings.tuning.warmup_rounds, longest)
        return (*[float("nan")] * warm, *medians[warm:])

    def _row(self, number: int, trial: FrozenTrial) -> dict[str, Any]:
        values = [trial.intermediate_values[n] for n in range(len(trial.intermediate_values))]
        best = max(values) if is_ranking(self._settings.training) else min(values)
        return {
            "trial": number,
            **trial.params,
            metric_name(self._settings.training): best,
            "rounds": values.index(best) + 1,
            "ended": GIVEN_UP if trial.state.name == "PRUNED" else WHOLE,
        }


def _space(optuna: ModuleType, settings: Settings, first: Mapping[str, Any]) -> dict[str, Any]:
    """What is drawn from: the ranges of the settings, widened to what is tried first."""
    own, kinds = settings.tuning, optuna.distributions

    def span(name: str) -> tuple[Any, Any]:
        low, high = getattr(own, name)
        return min(low, first[name]), max(high, first[name])

    low, high = span("depth")
    fractions = {
        name: kinds.FloatDistribution(*span(name), log=True) for name in ("eta", "leaf_weight", "l2")
    }
    return {"depth": kinds.IntDistribution(low, high), **fractions}


def _storage(optuna: ModuleType, settings: Settings) -> Any:
    url = sa.make_url(settings.catalogue_url)
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        settings.home.mkdir(parents=True, exist_ok=True)
        url = url.set(database=str(settings.home.absolute() / "tuning.db"))
    else:
        arguments = {"connect_args": {"options": f"-csearch_path={SCHEMA}"}}
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
    # Connections are not kept: a search outlives a restart of its database between two trials.
    return optuna.storages.RDBStorage(
        url.render_as_string(hide_password=False), engine_kwargs={"poolclass": sa.pool.NullPool, **arguments}
    )
