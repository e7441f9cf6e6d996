"""DAG ``prescore_features``: build the features as of a cut-off, then put them in the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import CronDataIntervalTimetable, dag

if TYPE_CHECKING:
    from dags.prescore_command import CUTOFF, FEATURES, RETRIES, CutoffOperator
else:  # Airflow puts this folder, not the one above it, on the path
    from prescore_command import CUTOFF, FEATURES, RETRIES, CutoffOperator

SCHEDULE = os.environ.get("PRESCORE_SCHEDULE", "@daily")
"""A cron expression in UTC; empty: runs are started by hand, with a cut-off."""


@dag(
    dag_id="prescore_features",
    # Data intervals, not instants: a run started by hand gets the last whole interval, never "now".
    schedule=CronDataIntervalTimetable(SCHEDULE, timezone="UTC") if SCHEDULE else None,
    is_paused_upon_creation=bool(SCHEDULE),  # the one switch: the other DAGs only follow
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    params={"cutoff": CUTOFF},
    tags=["prescore"],
    doc_md=__doc__,
)
def prescore_features() -> None:
    """Asset ``prescore_features`` is renewed once both the tables and the store have the features."""
    build = CutoffOperator(task_id="build", arguments=["features", "build"], result="cutoff")
    store = CutoffOperator(
        task_id="materialize", arguments=["features", "materialize"], result="cutoff", outlets=[FEATURES]
    )
    build >> store


prescore_features()
