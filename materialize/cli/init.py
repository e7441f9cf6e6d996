"""``prescore init``: look at three files, guess what they are, write a commented prescore.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from features.errors import CallerError
from materialize.cli.context import Output, OutputOption, stdout
from materialize.cli.output import print_json
from materialize.settings import SETTINGS_FILE


def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the files of events, users and items.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace a prescore.toml that is there.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Look at three files (Parquet or CSV), guess their columns, and write a commented [bold]prescore.toml[/bold]."""
    from features.guess import guess_settings
    from materialize.settings_file import write_settings

    target = folder / SETTINGS_FILE
    if target.exists() and not force:
        raise CallerError(
            f"{target} is there already", fix="edit it, or replace it with 'prescore init --force'"
        )
    guessed, reasons = guess_settings(folder)
    target.write_text(write_settings(guessed), encoding="utf-8")
    if output is Output.JSON:
        print_json({"settings_file": str(target), "settings": guessed, "reasons": reasons})
        return
    console = stdout()
    console.print(f"Wrote [bold]{escape(str(target))}[/bold] from these guesses:\n")
    for reason in reasons:
        console.print(f"  • {escape(reason)}")
    console.print("\nRead it over, mend what is wrong, then: [bold]prescore run[/bold]")
