"""Ctrl-C: remembered, so that one which a library swallows still ends the command at its next step."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODE = 130
"""As a shell reports a program that SIGINT ended."""

MESSAGE = "\nInterrupted. Nothing that is served has changed; the same command goes on or starts clean."

_came = False


@contextmanager
def remembered() -> Iterator[None]:
    """Within the block Ctrl-C raises KeyboardInterrupt, and :func:`check` does so from then on."""
    global _came  # noqa: PLW0603 - a signal is the process's own
    _came = False
    before, hook = signal.signal(signal.SIGINT, _handle), sys.unraisablehook

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):  # which is remembered, so nothing is lost
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came: callbacks from C and destructors lose the exception itself."""
    if _came:
        raise KeyboardInterrupt


def _handle(*_: object) -> None:
    global _came  # noqa: PLW0603 - likewise
    _came = True
    raise KeyboardInterrupt
