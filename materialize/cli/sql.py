"""``prescore sql``: ask the scored tables."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ROWS = 200


def sql(
    context: typer.Context,
    query: Annotated[
        str,
        typer.Argument(
            help="A SELECT over the views recommendations (live), recommendations_joined (with items, users, models), "
            "recommendations_all, items, users, models, generations."
        ),
    ],
    generation: Annotated[
        str,
        typer.Option(
            "--generation", help="Let 'recommendations' be this generation instead of the live one."
        ),
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(
            "--as-of", help="Let it be the one that was live then, such as 2018-01-01T12:00:00 (UTC)."
        ),
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a query over the scored tables with DuckDB.

    Example: prescore sql "select item_id, count(*) n from recommendations where rank = 1 group by 1 order by n desc"
    """
    from materialize import tables
    from materialize.cutoffs import parse_instant

    instant = parse_instant(as_of, "the time") if as_of else None
    table = tables.read(query, context.obj.settings(), generation=generation, as_of=instant)
    with _ended_by_its_reader():
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


@contextmanager
def _ended_by_its_reader() -> Iterator[None]:
    """Within the block a reader that has seen enough, such as ``head``, ends the program without a word, as it does others."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
        sys.stdout.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)
