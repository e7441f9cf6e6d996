"""Works through users in blocks of lanes, on as many threads as the caller wants; kernels release the interpreter's lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from materialize.scoring.kernels_simd import LANES

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.scoring.block_scorer import BlockScorer, Workspace


def default_threads() -> int:
    """Threads to use where the caller does not say: ``NUMBA_NUM_THREADS``, or the cores of this process."""
    asked = os.environ.get("NUMBA_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_block(
    scorer: BlockScorer, users: int, work: Callable[[Workspace, int, int], None], threads: int | None
) -> None:
    """Call ``work(workspace, first, last)`` for blocks of at most LANES users.

    Args:
        scorer: Whose workspaces; each thread has one.
        users: How many there are.
        work: Writes results of its users only; what it raises is raised here.
        threads: Default: ``NUMBA_NUM_THREADS``, or the cores of this process.
    """
    starts = iter(range(0, users, LANES))  # shared: each thread takes the next block

    def run() -> None:
        space = scorer.workspace()
        for first in starts:
            work(space, first, min(first + LANES, users))

    threads = min(default_threads() if threads is None else max(1, threads), -(-users // LANES))
    if threads <= 1:
        run()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run) for _ in range(threads)]:
            done.result()
