"""An interrupt that a library swallows still ends the command, at its next step."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from materialize.cli import interrupt
from materialize.cli.progress import RichProgress


class Swallows:
    """As a destructor or a callback from C does: the exception is reported and lost."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_one_that_is_swallowed_comes_again_at_the_next_step(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt.remembered(), RichProgress() as progress:
        progress.start("a stage")
        progress.advance()
        with suppress(KeyboardInterrupt):
            Swallows()
        with pytest.raises(KeyboardInterrupt):
            progress.advance()
    assert signal.getsignal(signal.SIGINT) is before
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_each_command_begins_without_the_last_ones_interrupt() -> None:
    with interrupt.remembered(), suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with interrupt.remembered():
        interrupt.check()
