"""``prescore status``: what is live, how old it is, and whether the parts answer."""

from __future__ import annotations

import datetime as dt

import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit


def status(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """What is live, how old it is, and whether store, catalogue and service answer; exit code 5 if one does not."""
    from materialize.status import status as look

    settings = context.obj.settings()
    report = look(settings)
    rows = [{"part": part.name, "state": part.state, "detail": part.detail} for part in report]
    emit(output, {"at": dt.datetime.now(dt.UTC), "parts": rows}, "Prescore", rows)
    if any(part.state == "down" for part in report):
        raise typer.Exit(5)
