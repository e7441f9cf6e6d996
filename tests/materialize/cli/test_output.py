"""Tables show what came as it is, also where it looks like markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from materialize.cli.output import print_table

if TYPE_CHECKING:
    import pytest


def test_what_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("User [/x]", [{"[bold]": "[red]a[/red]", "[/b]id": "[/c]"}])
    shown = capsys.readouterr().out
    for text in ("User [/x]", "[bold]", "[red]a[/red]", "[/b]id", "[/c]"):
        assert text in shown
