"""Runs the blocks of a generation on the Dask cluster: few at a time, each result as it comes."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING
from uuid import uuid4

from distributed import as_completed
from distributed.scheduler import KilledWorker

from features.errors import RetryableError, StorageError
from materialize.generation.block_task import BlockTask, run_block
from materialize.scoring import PairScorer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from distributed import Client

    from features.feature_build import FeatureBuild
    from materialize.generation.records import Block
    from materialize.model_bundle import ModelBundle

_AHEAD = 2
"""Tasks in flight per worker thread: one runs, one waits; the scheduler never holds more than that."""


def bind_catalogue(folder: Path, build: FeatureBuild, bundle: ModelBundle) -> None:
    """Bind the model to the candidate items and save that for the workers; a folder that exists is complete.

    Raises:
        UnsupportedModelError, SchemaMismatchError: If the model cannot be scored on these items.
        StorageError: If the folder cannot be written.
    """
    if folder.exists():
        return
    bound = PairScorer.from_xgboost(bundle.model_bytes, bundle.schema).bind(build.read_items())
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        bound.save(aside)
        os.rename(aside, folder)  # noqa: PTH104 - fails, as it should, if the folder has appeared meanwhile
    except OSError as error:
        raise StorageError.of_writing(f"the bound catalogue {folder}", error, folder.parent) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def score_blocks(client: Client, tasks: Sequence[BlockTask]) -> Iterator[Block]:
    """Run blocks on the cluster; results come in the order in which they are done.

    A worker that is lost costs only its blocks: they run again elsewhere. When the caller stops, or a
    block fails, those that have not begun are cancelled.

    Raises:
        PrescoreError: What a block raised.
        RetryableError: If a block takes its workers down, or the cluster is lost.
    """
    waiting = iter(tasks)
    # Without a loop it takes that of the process's newest client, and a future that is lost and run again
    # would then be awaited in two loops.
    running = as_completed(loop=client.loop)
    pending = set()

    def submit_next() -> None:
        task = next(waiting, None)
        if task is not None:
            key = f"score-{task.generation.id}-{task.number}-{uuid4().hex[:8]}"
            future = client.submit(run_block, task, key=key, pure=False)
            pending.add(future)
            running.add(future)

    for _ in range(_AHEAD * max(1, sum(client.nthreads().values()))):
        submit_next()
    try:
        for future in running:
            pending.discard(future)
            block: Block = future.result()
            submit_next()
            yield block
    except KilledWorker as error:
        raise RetryableError(
            "a block has taken several workers down",
            got=str(error).splitlines()[0],
            fix="give workers more memory ([cluster] memory_per_worker) or make blocks smaller ([scoring] users_per_block)",
        ) from error
    finally:
        client.cancel(list(pending), force=True)
