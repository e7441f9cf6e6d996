"""What every command shares: where the settings are, and how to show results."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from materialize.settings import SETTINGS_FILE, load_settings

if TYPE_CHECKING:
    from materialize.settings import Settings


class Output(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", help="Tables for people, or one JSON document on stdout for machines."),
]
CutoffOption = Annotated[
    str,
    typer.Option(
        "--cutoff",
        help="Compute everything as of this instant, such as 2018-01-01 or 20180101T000000Z. "
        "Default: the midnight (UTC) after the last event.",
    ),
]


@dataclass
class CommandContext:
    """Options given before the command's name."""

    settings_file: Path | None = None
    debug: bool = False

    @property
    def file(self) -> Path | None:
        """The settings file as an absolute path, or None where there is none."""
        path = (self.settings_file or Path(SETTINGS_FILE)).absolute()
        return path if path.is_file() else None

    def settings(self) -> Settings:
        """Read the settings once the command is known.

        Raises:
            SettingsError: If a setting is wrong.
        """
        return load_settings(self.settings_file)

    def publishing_settings(self) -> Settings:
        """Settings whose store and catalogue answer: better known now than after an hour of training.

        Raises:
            SettingsError: If a setting is wrong.
            SourceError: If there is no file of events.
            RetryableError: If the store or the catalogue does not answer.
        """
        from features.table_files import find_files
        from materialize import embedded, walk

        given = self.settings()
        find_files(given.events.path, "events")  # before a server is started for a run that cannot begin
        settings = embedded.with_store(given)
        embedded.check_store(settings)
        walk.open_catalogue(settings)
        return settings


def stdout() -> Console:
    """Console for results; as wide as needed when it is no terminal, so that no table is cut."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False)


def stderr() -> Console:
    """Console for progress, notes and errors."""
    return Console(file=sys.stderr, width=None if sys.stderr.isatty() else 140, highlight=False)
