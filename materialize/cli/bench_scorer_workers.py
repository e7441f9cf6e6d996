"""Two workers of one thread beside one of two threads, for ``prescore bench scorer``."""

from __future__ import annotations

import statistics
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materialize.cli.bench_scorer_peers import seconds
from materialize.cli.bench_scorer_world import Shape, World

if TYPE_CHECKING:
    from materialize.scoring import BoundCatalogue

K = 100


def bench_workers(
    *, blocks: int = 16, users_per_block: int = 4096, items: int = 10_000, rounds: int = 3
) -> dict[str, Any]:
    """Score blocks of users on Dask, on both clusters in turn; each task returns a number, so nothing is gathered.

    Args:
        blocks: How many tasks.
        users_per_block: 4,096 is what a generation's blocks hold by default.
        items: Of 100 trees x depth 6.
        rounds: The ratio is the median over so many.

    Returns:
        Seconds of each, their ratio, and milliseconds of one task.
    """
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory(prefix="prescore-bench-") as folder:
        World(Shape(100, 6), items).bind().save(Path(folder) / "catalogue")

        def run(client: Client) -> float:
            def all_blocks() -> None:
                tasks = [
                    client.submit(_score, folder, n, users_per_block, items, pure=False)
                    for n in range(blocks)
                ]
                client.gather(tasks)

            return seconds(all_blocks)

        environment = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (
            LocalCluster(2, threads_per_worker=1, dashboard_address=":0", env=environment) as two,
            LocalCluster(1, threads_per_worker=2, dashboard_address=":0", env=environment) as one,
            Client(two) as of_two,
            Client(one) as of_one,
        ):
            for client in (of_two, of_one):
                run(client)  # opens the catalogue, loads kernels
            times = [(run(of_two), run(of_one)) for _ in range(rounds)]
    both = statistics.median(a for a, _ in times)
    return {
        "blocks": blocks,
        "users per block": users_per_block,
        "two workers x 1 thread s": both,
        "one worker x 2 threads s": statistics.median(b for _, b in times),
        "ratio": statistics.median(a / b for a, b in times),
        "required": "0.9 to 1.1",
        "task ms": both / blocks * 2 * 1e3,
    }


@lru_cache(maxsize=2)
def _open(folder: str) -> BoundCatalogue:
    from materialize.scoring import BoundCatalogue

    return BoundCatalogue.load(Path(folder) / "catalogue")


def _score(folder: str, block: int, users: int, items: int) -> int:
    some = World(Shape(100, 6), items).users(users, seed=block)
    return len(_open(folder).top_k(some.table, K, threads=1).counts)
