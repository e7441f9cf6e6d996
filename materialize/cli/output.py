"""Results as tables for people or as JSON for machines."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from materialize.cli.context import Output, stdout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def print_json(document: object) -> None:
    """Write one JSON document to stdout."""
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2, default=_plain)
    sys.stdout.write("\n")


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # NumPy scalars
        return value.item()
    return str(value)


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Draw rows of equal keys as a table; numbers are aligned to the right."""
    console = stdout()
    console.print(f"[bold]{escape(title)}[/bold]")
    table = Table(box=box.SIMPLE_HEAD)
    if rows:
        for name in rows[0]:
            numeric = any(isinstance(row[name], int | float) for row in rows)
            table.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(
                *(
                    escape(str(value) if name.endswith("id") and value is not None else show(value))
                    for name, value in row.items()
                )
            )
    else:
        console.print("  nothing\n")
        return
    console.print(table)


def show(value: object) -> str:
    """A cell: thousands separated, four significant digits, times to the second."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def emit(output: Output, document: object, title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print ``document`` as JSON or ``rows`` as a table."""
    if output is Output.JSON:
        print_json(document)
    else:
        print_table(title, rows)
