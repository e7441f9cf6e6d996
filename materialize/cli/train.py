"""``prescore train``: train, evaluate beside baselines, and save a model bundle."""

from __future__ import annotations

import typer

from materialize.cli.context import CutoffOption, Output, OutputOption
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress
from materialize.cli.run import quality_title


def train(context: typer.Context, cutoff: CutoffOption = "", output: OutputOption = Output.TEXT) -> None:
    """Train on past label windows, rank the last one beside the baselines, save the model bundle."""
    from materialize import walk

    settings = context.obj.settings()
    with RichProgress() as progress:
        bundle = walk.train(settings, walk.resolve_cutoff(settings, cutoff), progress)
    if output is Output.JSON:
        print_json({"model_id": bundle.id, "metrics": bundle.metrics})
    else:
        print_table(f"Model {bundle.id}. {quality_title(bundle)}", walk.quality_rows(bundle))
