"""DAGs that a person starts: ``prescore_rollback``, once approved, and ``prescore_erase_user``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag

if TYPE_CHECKING:
    from dags.prescore_command import GENERATION, RETRIES, PrescoreOperator
else:  # Airflow puts this folder, not the one above it, on the path
    from prescore_command import GENERATION, RETRIES, PrescoreOperator

TARGET = Param(
    None,
    type=["null", "string"],
    title="Generation",
    description="Id of the generation to make live. Empty: the one that was live before.",
)


@dag(
    dag_id="prescore_rollback",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args=RETRIES,
    params={"generation": TARGET},
    tags=["prescore"],
    doc_md=__doc__,
)
def prescore_rollback() -> None:
    """Nothing changes until a person approves; the question expires after a day."""
    live = PrescoreOperator(task_id="live", arguments=["generations", "show", "live"], result="generation")
    approve = ApprovalOperator(
        task_id="approve",
        subject="Replace the generation that is live?",
        body="Live now: `{{ ti.xcom_pull(task_ids='live') }}`. It would be replaced by "
        "{{ '`' ~ params.generation ~ '`' if params.generation else 'the one that was live before' }}.",
        response_timeout=timedelta(days=1),
        execution_timeout=None,
        retries=0,
    )
    change = PrescoreOperator(
        task_id="change",
        arguments=[
            "generations",
            "{{ 'activate' if params.generation else 'rollback' }}",
            "{{ params.generation or '' }}",
        ],
        result="generation",
        outlets=[GENERATION],
    )
    live >> approve >> change


USER = Param(
    "",
    type="string",
    minLength=1,
    title="User",
    description="Id of the user to erase. Airflow keeps it with the run: delete the run when it has succeeded.",
)


@dag(
    dag_id="prescore_erase_user",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args=RETRIES,
    params={"user": USER},
    tags=["prescore"],
)
def prescore_erase_user() -> None:
    """Remove a user everywhere; a task that was cut short goes on when it is retried."""
    PrescoreOperator(task_id="erase", arguments=["erase-user", "{{ params.user }}"], result="erasure")


prescore_rollback()
prescore_erase_user()
