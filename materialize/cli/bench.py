"""``prescore bench``: measure beside peers, in one run on this machine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Command, Context  # Typer brings its own click

BENCHMARKS = ("features", "training", "ranking", "scorer", "scale", "publish", "lookup")
"""Each in a module of its own, ``bench_NAME``, whose ``register`` adds the command."""


class _Benchmarks(TyperGroup):
    """Imports a benchmark when it is asked for: some bring numpy and pyarrow, which ``prescore --help`` can do without."""

    def list_commands(self, ctx: Context) -> list[str]:
        del ctx
        return list(BENCHMARKS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        del ctx
        if cmd_name not in BENCHMARKS:
            return None
        alone = typer.Typer(add_completion=False)
        import_module(f"materialize.cli.bench_{cmd_name}").register(alone)
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Benchmarks,
    no_args_is_help=True,
    help="Measure Prescore beside its peers, interleaved, in one run.",
)
