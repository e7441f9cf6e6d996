"""``prescore sql``: ask the scored tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit

MOST_ROWS = 200


def sql(
    context: typer.Context,
    query: Annotated[
        str,
        typer.Argument(
            help="A SELECT over the views recommendations (live), recommendations_all, items, users, models, generations."
        ),
    ],
    generation: Annotated[
        str,
        typer.Option(
            "--generation", help="Let 'recommendations' be this generation instead of the live one."
        ),
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a query over the scored tables with DuckDB.

    Example: prescore sql "select item_id, count(*) n from recommendations where rank = 1 group by 1 order by n desc"
    """
    from materialize import walk

    table = walk.query(context.obj.settings(), query, generation)
    if output is Output.JSON:
        rows = table.to_pylist()
        emit(output, rows, "", rows)
        return
    shown = table.slice(0, MOST_ROWS).to_pylist()
    rows = [
        {k: json.dumps(v, default=str) if isinstance(v, list | dict) else v for k, v in row.items()}
        for row in shown
    ]
    more = (
        f", of which the first {MOST_ROWS} are shown; --output json prints all"
        if table.num_rows > MOST_ROWS
        else ""
    )
    emit(output, None, f"{table.num_rows:,} rows{more}", rows)
