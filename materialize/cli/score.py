"""``prescore score``: score every user against every item and publish a generation."""

from __future__ import annotations

from typing import Annotated

import typer

from materialize.cli.context import CutoffOption, Output, OutputOption
from materialize.cli.generations import generation_row
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress


def score(
    context: typer.Context,
    cutoff: CutoffOption = "",
    model: Annotated[
        str, typer.Option("--model", help="Id or alias of a model. Default: the champion.")
    ] = "",
    override: Annotated[
        list[str] | None,
        typer.Option("--override", help="Let a failing gate pass; recorded with the reason."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why the gates are overridden.")] = "",
    full: Annotated[
        bool, typer.Option("--full", help="Score everything anew, even where little has changed.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Score every user against every item, or what changed of that, publish the top-K, check the gates, and flip."""
    from materialize import walk

    settings = context.obj.publishing_settings()
    with RichProgress() as progress:
        bundle = walk.find_bundle(settings, model)
        built = walk.build_features(settings, walk.resolve_cutoff(settings, cutoff), progress)
        with walk.cluster(settings) as client:
            generation = walk.score(
                settings, built, bundle, client, progress, dict.fromkeys(override or (), reason), full=full
            )
    row, work = generation_row(generation), walk.work_row(walk.open_catalogue(settings), generation)
    if output is Output.JSON:
        print_json(row | {"work": work})
    else:
        print_table(f"What the {generation.kind} generation took", [work])
        print_table("Published", [row])
