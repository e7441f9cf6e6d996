"""Load the DAG folder in a process of its own, run DAGs with ``dag.test()``, and write a JSON report.

Usage: ``python dag_driver.py REPORT '[["prescore_train", {"cutoff": …}, "2017-12-05T00:00:00Z"], …]'``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.asset import AssetEvent
from airflow.sdk import timezone
from airflow.utils.session import create_session
from sqlalchemy import select

HEAVY = ("dask", "distributed", "duckdb", "feast", "ibis", "numba", "pandas", "pyarrow", "sklearn", "xgboost")
OURS = ("features", "materialize", "serving_lookup")


def main(report: Path, steps: list[tuple[str, dict[str, Any], str]]) -> None:
    """Run the steps in order."""
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    before = set(sys.modules)
    started = time.monotonic()
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
    parsed = {
        "seconds": time.monotonic() - started,
        "dags": {
            dag.dag_id: {
                "tasks": {task.task_id: task.retries for task in dag.tasks},
                "params": sorted(dag.params),
                "catchup": dag.catchup,
                "max_active_runs": dag.max_active_runs,
                "schedule": type(dag.timetable).__name__,
                "outlets": sorted({asset.name for task in dag.tasks for asset in task.outlets}),
            }
            for dag in bag.dags.values()
        },
        "errors": bag.import_errors,
        "warnings": bag.captured_warnings,
        "heavy": sorted(name for name in (*HEAVY, *OURS) if name in set(sys.modules) - before),
    }
    runs = []
    for dag_id, conf, logical_date in steps:
        run = bag.dags[dag_id].test(run_conf=conf, logical_date=timezone.parse(logical_date))
        instances = run.get_task_instances()
        runs.append(
            {
                "state": str(run.state),
                "tasks": {
                    ti.task_id: {"state": str(ti.state), "id": ti.xcom_pull(task_ids=ti.task_id)}
                    for ti in instances
                },
            }
        )
    report.write_text(json.dumps({"parsed": parsed, "runs": runs, "events": asset_events()}))


def asset_events() -> list[dict[str, Any]]:
    """Name and extra of every asset event so far, oldest first."""
    with create_session() as session:
        events = session.scalars(select(AssetEvent).order_by(AssetEvent.id))
        return [{"asset": event.asset.name, **event.extra} for event in events]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
