"""``prescore generations``: list, show, activate, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import NotFoundError
from materialize.cli.context import Output, OutputOption, stdout
from materialize.cli.output import emit, print_json, print_table
from materialize.cli.progress import RichProgress

if TYPE_CHECKING:
    from materialize.generation.records import Generation

app = typer.Typer(no_args_is_help=True, help="List, inspect, activate and roll back generations.")


def generation_row(generation: Generation) -> dict[str, object]:
    """What people want to know of a generation, in one row; also its JSON form."""
    return {
        "generation": generation.id,
        "kind": generation.kind,
        "parent": generation.parent or None,
        "state": generation.state,
        "slot": generation.slot,
        "model_id": generation.model_id,
        "feature_cutoff": generation.feature_cutoff,
        "users": generation.users,
        "items": generation.items,
        "rows": generation.rows,
        "published_at": generation.published_at,
    }


@app.command("list")
def list_(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """All generations, newest first."""
    from materialize import walk

    settings = context.obj.settings()
    rows = [generation_row(g) for g in walk.open_catalogue(settings).generations(settings.model)]
    emit(output, rows, f"Generations of {settings.model}", rows)


@app.command("show")
def show(
    context: typer.Context,
    generation: Annotated[str, typer.Argument(help="Id of a generation, or 'live'.")] = "live",
    report: Annotated[
        bool, typer.Option("--report", help="Open its report, a page with plots, in a browser.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """One generation, what it took, its gates (measured against allowed), and where its report is."""
    from materialize import walk
    from materialize.generation.report import report_path

    settings = context.obj.settings()
    catalogue = walk.open_catalogue(settings)
    found = walk.find_generation(catalogue, settings.model, generation)
    gates, work = walk.gate_rows(catalogue, found.id), walk.work_row(catalogue, found)
    page = report_path(settings, found.id)
    if report:
        if not page.exists():
            raise NotFoundError(
                f"generation {found.id} has no report", fix="one is written when its gates are measured"
            )
        typer.launch(page.as_uri())
    if output is Output.JSON:
        where = str(page) if page.exists() else None
        print_json(generation_row(found) | {"work": work, "gates": gates, "report": where})
        return
    print_table(f"Generation {found.id}", [{"": k, "value": v} for k, v in generation_row(found).items()])
    print_table("What it took", [work])
    print_table("Gates", gates)
    if page.exists():
        stdout().print(f"Report: {page}", soft_wrap=True)


@app.command("activate")
def activate(
    context: typer.Context,
    generation: Annotated[str, typer.Argument(help="Id of a validated or retired generation.")],
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a generation live; what its slot no longer holds is published again from the scored tables."""
    from materialize import embedded, walk

    settings = embedded.with_store(context.obj.settings())
    with RichProgress() as progress:
        row = generation_row(walk.activate(settings, generation, progress))
    emit(output, row, "Live", [row])


@app.command("rollback")
def rollback(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """Make the generation live that was so before; never a rejected or incomplete one."""
    from materialize import embedded, walk

    settings = embedded.with_store(context.obj.settings())
    with RichProgress() as progress:
        row = generation_row(walk.rollback(settings, progress))
    emit(output, row, "Live", [row])
