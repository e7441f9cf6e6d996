"""``prescore sql-copy``: copy a generation into a PostgreSQL database."""

from __future__ import annotations

from typing import Annotated

import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit
from materialize.cli.progress import RichProgress


def sql_copy(
    context: typer.Context,
    generation: Annotated[str, typer.Argument(help="Id of a generation, or 'live'.")] = "live",
    output: OutputOption = Output.TEXT,
) -> None:
    """Copy a generation into the PostgreSQL database that the settings name; its view 'recommendations' moves in one step.

    With the setting sql_copy.url, each publication does this by itself.
    """
    from materialize import walk

    settings = context.obj.settings()
    with RichProgress() as progress:
        found, rows = walk.sql_copy(settings, progress, generation)
    row = {
        "generation": found.id,
        "view": f"{settings.sql_copy.into}.recommendations",
        "rows": found.rows,
        "copied": rows,
    }
    emit(output, row, "In PostgreSQL", [row])
