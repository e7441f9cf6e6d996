"""``prescore bench ranking``: what the default recipe reaches on two public data sets, beside seven baselines."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from materialize.cli import demo, movielens
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit
from materialize.cli.progress import RichProgress
from materialize.settings import SETTINGS_FILE, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from materialize.settings import Settings


class Data(StrEnum):
    """A public data set."""

    COMPLETE_JOURNEY = "complete-journey"
    MOVIELENS = "movielens"


@dataclass(frozen=True)
class Goal:
    """What the model is to reach, as a multiple of a baseline.

    Attributes:
        part: ``served``: lists as they are served; ``new_items``: on items that are new to the user.
        measure: Of both.
        baseline: The other one.
        must: Least ratio; None: no lower than the lower end of the baseline's own interval.
        aim: Ratio to hope for.
    """

    part: str
    measure: str
    baseline: str
    must: float | None
    aim: float


GOALS = {
    Data.COMPLETE_JOURNEY: (
        Goal("served", "ndcg@10", "own_decayed_frequency", 1.015, 1.02),
        Goal("served", "ndcg@10", "tifu_knn", None, 1.04),
        Goal("served", "recall@50", "own_decayed_frequency", 1.04, 1.08),
        Goal("new_items", "ndcg@10", "ease", 1.0, 1.15),
        Goal("new_items", "ndcg@10", "recent_popularity", 1.1, 1.15),
    ),
    Data.MOVIELENS: (
        Goal("served", "ndcg@10", "ease", 1.03, 1.1),
        Goal("served", "recall@10", "ease", 1.2, 1.4),
    ),
}
MUST_SECONDS, AIM_SECONDS = 180.0, 60.0
"""Features, training and scoring of everybody."""


def goal_rows(data: Data, methods: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was reached of each goal.

    Args:
        data: Chooses the goals.
        methods: As in the report of an evaluation.
    """
    rows = []
    for goal in GOALS[data]:
        ours, theirs = (
            methods[name] if goal.part == "served" else methods[name][goal.part]
            for name in ("model", goal.baseline)
        )
        measured, against = ours[goal.measure], theirs[goal.measure]
        low, high = ours["intervals"][goal.measure]
        must = goal.must if goal.must is not None else theirs["intervals"][goal.measure][0] / against
        rows.append(
            {
                "measure": f"{goal.measure}, {'all' if goal.part == 'served' else 'new'} items",
                "model": measured,
                "95 %": f"{low:.4f}–{high:.4f}",
                "against": goal.baseline,
                "its": against,
                "ratio": measured / against,
                "must": must,
                "aim": goal.aim,
                "reached": _reached(measured / against >= must, measured / against >= goal.aim),
            }
        )
    return rows


def _reached(must: bool, aim: bool) -> str:
    return "aim" if aim else "yes" if must else "no"


def bench_ranking(settings: Settings, data: Data, cutoff: str, progress: RichProgress) -> dict[str, Any]:
    """Train unattended, score everybody, and measure beside all baselines.

    Args:
        settings: Of the data set.
        data: Chooses the goals.
        cutoff: Empty: after the last event.
        progress: Told of every stage.

    Returns:
        ``model_id``, ``seconds`` (features, training, scoring), ``goals``, and ``metrics`` of the evaluation.
    """
    from materialize import walk

    start = time.perf_counter()
    at = walk.resolve_cutoff(settings, cutoff)
    bundle = walk.train(settings, at, progress)
    _score_everybody(settings, bundle, walk.build_features(settings, at, progress))
    seconds = time.perf_counter() - start
    metrics, report = walk.evaluate(settings, bundle, None, None, progress)
    goals = goal_rows(data, metrics["methods"])
    goals.append(
        {
            **dict.fromkeys(goals[0]),
            "measure": "seconds: features, training, scoring",
            "model": seconds,
            "must": MUST_SECONDS,
            "aim": AIM_SECONDS,
            "reached": _reached(seconds <= MUST_SECONDS, seconds <= AIM_SECONDS),
        }
    )
    return {
        "model_id": bundle.id,
        "seconds": seconds,
        "goals": goals,
        "report": str(report),
        "metrics": metrics,
    }


def _score_everybody(settings: Settings, bundle: Any, build: Any) -> None:
    from features.schema import USER_HASH
    from materialize.scoring import PairScorer

    catalogue = PairScorer.from_xgboost(bundle.booster(), bundle.schema).bind(build.read_items())
    catalogue.top_k(
        build.read_users().drop_columns([USER_HASH]),
        k=min(settings.scoring.k, build.read_items().num_rows),
        affinity={group: build.read_affinity(group) for group in bundle.schema.groups},
        pairs=build.read_pairs(),
        exclude=build.read_seen() if bundle.exclude_seen else None,
    )


def _command(
    data: Annotated[
        Data, typer.Option(help="The data set; MovieLens-1M is downloaded.")
    ] = Data.COMPLETE_JOURNEY,
    seeds: Annotated[str, typer.Option(help="Seeds of the training, with commas between them.")] = "0,1",
    cutoff: Annotated[str, typer.Option(help="Default: that of the demo, or after the last event.")] = "",
    folder: Annotated[
        Path | None, typer.Option(help="Where to work. Default: a folder of its own in .prescore.")
    ] = None,
    output: OutputOption = Output.TEXT,
    file: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """Train with the defaults, rank everything beside seven baselines, and hold it against what is wanted."""
    place = folder or Path(".prescore") / "bench" / data.value
    (demo if data is Data.COMPLETE_JOURNEY else movielens).prepare(place)
    given = load_settings(place / SETTINGS_FILE)
    cutoff = cutoff or (demo.CUTOFF if data is Data.COMPLETE_JOURNEY else "")
    runs = {}
    for seed in seeds.split(","):
        settings = given.model_copy(
            update={"training": given.training.model_copy(update={"seed": int(seed)})}
        )
        with RichProgress() as progress:
            runs[seed] = bench_ranking(settings, data, cutoff, progress)
        stderr().print(f"seed {seed}: model {runs[seed]['model_id']}, page {runs[seed]['report']}")
    if file is not None:
        file.write_text(json.dumps(runs, indent=1, default=str), "utf-8")
    rows = [{"seed": seed, **row} for seed, run in runs.items() for row in run["goals"]]
    emit(output, runs, f"{data.value}: the default recipe", rows)


def register(app: typer.Typer) -> None:
    """Add ``ranking`` to ``prescore bench``."""
    app.command("ranking")(_command)
