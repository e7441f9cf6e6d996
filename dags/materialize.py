"""DAG ``prescore_materialize``: score every user against every item, publish, pass the gates, flip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param, dag

if TYPE_CHECKING:
    from dags.prescore_command import CUTOFF, GENERATION, MODEL, RETRIES, CutoffOperator
else:  # Airflow puts this folder, not the one above it, on the path
    from prescore_command import CUTOFF, GENERATION, MODEL, RETRIES, CutoffOperator

MODEL_ID = Param(
    None,
    type=["null", "string"],
    title="Model",
    description="Id of a model bundle. Empty: the one of the asset that started the run, or else the newest.",
)

FULL = Param(
    False,
    type="boolean",
    title="Score everything anew",
    description="Also where little has changed since the live generation.",
)


@dag(
    dag_id="prescore_materialize",
    schedule=[MODEL],
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args=RETRIES,
    params={"cutoff": CUTOFF, "model_id": MODEL_ID, "full": FULL},
    tags=["prescore"],
    doc_md=__doc__,
)
def prescore_materialize() -> None:
    """Asset ``prescore_generation`` is renewed when a generation is live."""
    CutoffOperator(
        task_id="score",
        arguments=["score", "{{ '--full' if params.full else '' }}"],
        result="generation",
        outlets=[GENERATION],
    )


prescore_materialize()
