"""Runs a part of a benchmark in a process of its own, and watches what its family takes of memory and disk."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from features.errors import PrescoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection
    from pathlib import Path

WATCH_SECONDS = 0.1


def watched_child(
    run: Callable[..., dict[str, Any]], *arguments: object, files: Callable[[], Iterable[Path]]
) -> tuple[dict[str, Any], int, int]:
    """Call ``run`` in a process that has done nothing before.

    Args:
        run: A function of a module; gives what was measured.
        arguments: Its own.
        files: Those whose size is watched.

    Returns:
        What it gave; most memory that the process and its children have held at once, in bytes; most that the files
        have taken on disk at once, in bytes.

    Raises:
        PrescoreError: That of the function.
    """
    import psutil  # type: ignore[import-untyped]  # it has no stubs

    peak = most = 0
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_send, args=(sender, run, *arguments))
    child.start()
    sender.close()  # the child has the other copy: when it ends, so does what can be received
    family = psutil.Process(child.pid)
    while not receiver.poll(WATCH_SECONDS):
        with suppress(psutil.NoSuchProcess):
            members = (family, *family.children(recursive=True))
            peak = max(peak, sum(process.memory_info().rss for process in members))
        most = max(most, _bytes_of(files()))
    answer: dict[str, Any] | PrescoreError = receiver.recv()
    child.join()
    if isinstance(answer, PrescoreError):
        raise answer
    return answer, peak, most


def _send(answer: Connection, run: Callable[..., dict[str, Any]], *arguments: object) -> None:
    try:
        answer.send(run(*arguments))
    except PrescoreError as error:
        answer.send(error)


def _bytes_of(files: Iterable[Path]) -> int:
    """Bytes that files take on disk; one that vanishes meanwhile takes none."""
    total = 0
    with suppress(FileNotFoundError):  # a folder that vanishes while it is listed
        for file in files:
            with suppress(FileNotFoundError):
                total += file.stat().st_blocks * 512
    return total
