"""``prescore evaluate``: rank the window that training has not seen by a model and by baselines, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import Output, OutputOption, stdout
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress
from materialize.cli.run import quality_title

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_COLUMNS = ("ndcg@10", "recall@10", "recall@50", "hit_rate@10", "coverage@10", "novelty@10")


def evaluate(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", help="Id of a model bundle. Default: the one that is scored with.")
    ] = "",
    against: Annotated[
        str, typer.Option("--against", help="'all', or names of baselines with commas between them.")
    ] = "all",
    report: Annotated[
        Path | None, typer.Option("--report", help="Where to write the HTML page. Default: in the warehouse.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Rank every candidate for every user of a model's evaluation window, beside popularity, habits, neighbours, EASE and ALS."""
    from materialize import walk
    from materialize.training.verdicts import verdicts

    settings = context.obj.settings()
    with RichProgress() as progress:
        bundle = walk.find_bundle(settings, model)
        names = None if against == "all" else [name.strip() for name in against.split(",")]
        metrics, page = walk.evaluate(settings, bundle, names, report, progress)
    if output is Output.JSON:
        print_json({"model_id": bundle.id, "report": str(page), **metrics})
        return
    print_table(f"Model {bundle.id}. {quality_title(bundle)}", method_rows(metrics["methods"]))
    print_table("NDCG@10 by segment", segment_rows(metrics["methods"]))
    for sentence in verdicts(metrics):
        stdout().print(f"  {sentence}", soft_wrap=True)
    stdout().print(f"\n  The whole report: {page}", soft_wrap=True)


def method_rows(methods: Mapping[str, Any]) -> list[dict[str, object]]:
    """Measures of each method, best NDCG@10 first, with its 95 % interval."""
    rows: list[dict[str, object]] = []
    for name in sorted(methods, key=lambda name: -methods[name]["ndcg@10"]):
        found = methods[name]
        low, high = found["intervals"]["ndcg@10"]
        row: dict[str, object] = {
            "method": name,
            "ndcg@10": found["ndcg@10"],
            "95 %": f"{low:.4f}–{high:.4f}",
        }
        rows.append(row | {column: found[column] for column in _COLUMNS[1:]})
    return rows


def segment_rows(methods: Mapping[str, Any]) -> list[dict[str, object]]:
    """NDCG@10 of each method by segment: users by their history, and items that are new to the user or to all."""
    rows: list[dict[str, object]] = []
    for name in sorted(methods, key=lambda name: -methods[name]["ndcg@10"]):
        found = methods[name]
        parts = {f"{segment} users": measured for segment, measured in found["segments"].items()}
        parts |= {"new to the user": found["new_items"], "fresh items": found["fresh_items"]}
        rows.append(
            {"method": name}
            | {f"{part} ({measured['users']:,})": measured["ndcg@10"] for part, measured in parts.items()}
        )
    return rows
