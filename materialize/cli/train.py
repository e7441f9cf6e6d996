"""``prescore train``: train, evaluate beside baselines, and save a model bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import CutoffOption, Output, OutputOption, stderr
from materialize.cli.models import gate_rows, promotion_row, show_promotion
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress
from materialize.cli.run import show_quality

if TYPE_CHECKING:
    from materialize.model_bundle import ModelBundle


def train(
    context: typer.Context,
    cutoff: CutoffOption = "",
    promote: Annotated[
        bool,
        typer.Option(
            "--promote", help="Make it the champion if the gates allow; 'model_id' is then the champion's."
        ),
    ] = False,
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            help="Try so many sets of parameters first, and train with the best; goes on where it was interrupted. "
            "Default: trials of [tuning].",
            min=0,
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Train on past label windows, rank the last one beside the baselines, save the bundle: the challenger."""
    from materialize import walk

    settings = context.obj.settings()
    if tune is not None:
        settings = settings.model_copy(update={"tuning": settings.tuning.model_copy(update={"trials": tune})})
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
        if trials := bundle.metrics["training"]["trials"]:
            show_trials(bundle, trials)
        if promotion is not None:
            show_promotion(promotion)


def show_trials(bundle: ModelBundle, trials: list[dict[str, object]]) -> None:
    """Print what a search has tried, and the settings that keep what it found without another search."""
    print_table("Trials", trials)
    (chosen,) = (choice["value"] for choice in bundle.metrics["choices"] if choice["name"] == "tuning")
    if isinstance(chosen, dict):
        lines = "\n".join(f"{name} = {value}" for name, value in chosen.items())
        said = f"To keep the best of them without another search, in prescore.toml:\n\n[training]\n{lines}"
    else:
        said = "The settings are the best of them."
    stderr().print(said, markup=False)
