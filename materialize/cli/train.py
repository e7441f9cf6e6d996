"""``prescore train``: train, evaluate beside baselines, and save a model bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from materialize.cli.context import CutoffOption, Output, OutputOption
from materialize.cli.models import gate_rows, promotion_row, show_promotion
from materialize.cli.output import print_json
from materialize.cli.progress import RichProgress
from materialize.cli.run import show_quality


def train(
    context: typer.Context,
    cutoff: CutoffOption = "",
    promote: Annotated[
        bool,
        typer.Option(
            "--promote", help="Make it the champion if the gates allow; 'model_id' is then the champion's."
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Train on past label windows, rank the last one beside the baselines, save the bundle: the challenger."""
    from materialize import walk

    settings = context.obj.settings()
    with RichProgress() as progress:
        bundle = walk.train(settings, walk.resolve_cutoff(settings, cutoff), progress)
        promotion = walk.promote_trained(settings, bundle, progress) if promote else None
    if output is Output.JSON:
        document: dict[str, object] = {"model_id": bundle.id, "metrics": bundle.metrics}
        if promotion is not None:
            decided = promotion_row(promotion) | {"gates": gate_rows(promotion.gates)}
            document |= {"model_id": promotion.champion, "trained_model_id": bundle.id, "promotion": decided}
        print_json(document)
    else:
        show_quality(settings, bundle)
        if promotion is not None:
            show_promotion(promotion)
