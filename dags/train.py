"""DAG ``prescore_train``: train a model at the features' cut-off, or keep the last one while it is young."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import Param, dag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.sdk import Context

    from dags.prescore_command import CUTOFF, FEATURES, MODEL, RETRIES, CutoffOperator, inputs_of
else:  # Airflow puts this folder, not the one above it, on the path
    from prescore_command import CUTOFF, FEATURES, MODEL, RETRIES, CutoffOperator, inputs_of

RETRAIN_AFTER_DAYS = Param(
    7,
    type="integer",
    minimum=0,
    title="Retrain after (days)",
    description="A model that was trained fewer days before the cut-off is used again. 0: always train.",
)


def young_model(
    events: Iterable[Mapping[str, object] | None], cutoff: str, days: int
) -> dict[str, str] | None:
    """The newest model that was trained less than ``days`` before ``cutoff``, and not after it.

    Later ones are passed over, so that a run of the past finds what it found then.

    Args:
        events: Extras of the events of the model asset.
        cutoff: Name of the cut-off, ``20171204T000000Z``.
        days: Age at which a model is too old, by cut-offs.

    Returns:
        Its ``model_id`` and the cut-off it was ``trained`` at, or ``None``.
    """
    at = datetime.fromisoformat(cutoff)
    young = [
        {"model_id": str(extra["model_id"]), "trained": str(extra["trained"])}
        for extra in events
        if extra and timedelta(0) <= at - datetime.fromisoformat(str(extra["trained"])) < timedelta(days=days)
    ]
    return max(young, key=lambda model: model["trained"], default=None)


class TrainOperator(CutoffOperator):
    """``prescore train``, unless a model of an earlier run is young enough."""

    def execute(self, context: Context) -> str:
        """Renew the model asset with the model to use at this cut-off, and return its id."""
        inputs = inputs_of(context)
        past = [event.extra for event in context["inlet_events"][MODEL]]
        model = young_model(past, inputs["cutoff"], context["params"]["retrain_after_days"])
        if model:
            self.log.info("Model %s, trained at %s, is young enough.", model["model_id"], model["trained"])
            return self.finish(context, model, cutoff=inputs["cutoff"], trained=model["trained"])
        answer = self.run_prescore([*self.arguments, "--cutoff", inputs["cutoff"]])
        return self.finish(context, answer, cutoff=inputs["cutoff"], trained=inputs["cutoff"])


@dag(
    dag_id="prescore_train",
    schedule=[FEATURES],
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args=RETRIES,
    params={"cutoff": CUTOFF, "retrain_after_days": RETRAIN_AFTER_DAYS},
    tags=["prescore"],
    doc_md=__doc__,
)
def prescore_train() -> None:
    """Asset ``prescore_model`` says which model to score a cut-off with."""
    TrainOperator(
        task_id="train", arguments=["train", "--promote"], result="model_id", inlets=[MODEL], outlets=[MODEL]
    )


prescore_train()
