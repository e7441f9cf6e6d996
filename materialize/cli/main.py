"""Entry point of ``prescore``: wires the commands, and turns every failure into one paragraph."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import structlog
import typer

from features.errors import PrescoreError
from materialize.cli import (
    bench,
    demo,
    erase_user,
    evaluate,
    features,
    generations,
    init,
    interrupt,
    lookup,
    models,
    rules,
    run,
    score,
    serve,
    sql,
    sql_copy,
    status,
    train,
)
from materialize.cli.context import CommandContext, stderr

DUCKDB_INTERRUPTED = "Query interrupted"
"""What DuckDB makes of Ctrl-C in the midst of a query: a RuntimeError with this text."""

app = typer.Typer(
    name="prescore",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Precomputed predictions without their faults.\n\n"
    "From three tables (events, users, items) to exact top-K lists, served in about a millisecond. "
    "Begin with [bold]prescore demo[/bold], or in a folder with your own three files: "
    "[bold]prescore init[/bold], then [bold]prescore run[/bold].",
)

WALK, STAGES, USE = "The whole walk", "Single stages", "Use and operate"
app.command("demo", rich_help_panel=WALK)(demo.demo)
app.command("init", rich_help_panel=WALK)(init.init)
app.command("run", rich_help_panel=WALK)(run.run)
app.add_typer(features.app, name="features", rich_help_panel=STAGES)
app.command("train", rich_help_panel=STAGES)(train.train)
app.command("evaluate", rich_help_panel=STAGES)(evaluate.evaluate)
app.command("score", rich_help_panel=STAGES)(score.score)
app.add_typer(models.app, name="models", rich_help_panel=USE)
app.add_typer(generations.app, name="generations", rich_help_panel=USE)
app.command("lookup", rich_help_panel=USE)(lookup.lookup)
app.command("sql", rich_help_panel=USE)(sql.sql)
app.command("sql-copy", rich_help_panel=USE)(sql_copy.sql_copy)
# An id may begin with a dash, like an option.
app.command("erase-user", rich_help_panel=USE, context_settings={"ignore_unknown_options": True})(
    erase_user.erase_user
)
app.add_typer(rules.app, name="rules", rich_help_panel=USE)
app.command("serve", rich_help_panel=USE)(serve.serve)
app.command("stop", rich_help_panel=USE)(serve.stop)
app.command("status", rich_help_panel=USE)(status.status)
app.add_typer(bench.app, name="bench", rich_help_panel=USE)


@app.callback()
def options(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", "-s", help="Settings file. Default: prescore.toml here, if there is one."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr what is going on.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library warnings.")] = False,
) -> None:
    """Options that come before the command."""
    context.obj = CommandContext(settings, debug)
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Dask sets its own loggers when it is imported, from this.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", logging.getLevelName(level).lower())
    if not debug:
        # Deprecations inside libraries are not the user's business; some reset the filters when imported.
        warnings.showwarning = lambda *_args, **_options: None


def main() -> None:
    """Run the command line; exit codes are in ``docs/cli.md``."""
    debug = "--debug" in sys.argv
    try:
        app()  # ends with SystemExit; usage errors and interrupts are typer's to show
    except SystemExit as done:
        if done.code == interrupt.EXIT_CODE:
            _say_interrupted()
        raise
    except PrescoreError as error:
        _fail(str(error), error.exit_code, debug=debug)
    except ModuleNotFoundError as error:
        _fail(
            f"This command needs the package {error.name!r}, which is not installed. "
            "To do: pip install 'prescore[materialize]' (the look-up service alone needs no extra).",
            2,
            debug=debug,
        )
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            _fail(_unexpected(error), 1, debug=debug)
        _fail(
            f"No space is left on the disk ({error.filename or 'while writing'}). What is served has not changed. "
            "To do: free some space and run the same command again.",
            5,
            debug=debug,
        )
    except RuntimeError as error:
        if str(error) != DUCKDB_INTERRUPTED:
            _fail(_unexpected(error), 1, debug=debug)
        _say_interrupted()
        sys.exit(interrupt.EXIT_CODE)
    except Exception as error:  # noqa: BLE001 - the last line of defence prints one paragraph instead of a traceback
        _fail(_unexpected(error), 1, debug=debug)


def _say_interrupted() -> None:
    stderr().print(interrupt.MESSAGE)


def _unexpected(error: BaseException) -> str:
    return (
        f"Unexpected {type(error).__name__}: {error}. Nothing that is served has changed. "
        "To do: run the command again with --debug before its name to see where it comes from, and report it."
    )


def _fail(message: str, code: int, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    stderr().print("Error: " + message, style="red", markup=False, soft_wrap=True)
    sys.exit(code)
