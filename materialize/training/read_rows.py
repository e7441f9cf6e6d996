"""Reads the features of the sampled pairs, some at a time: into memory, or into a file where they would not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.schema import EVENT_TIMESTAMP
from features.training_set import training_matrix
from materialize.training.choices import Choice
from materialize.training.stored_values import StoredValues
from materialize.training.training_rows import TrainingRows
from materialize.training.watched_workers import registered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.training.sampling import SampledPairs
    from materialize.training.window_labels import WindowLabels
    from materialize.training_settings import TrainingSettings

MEMORY, DISK = "memory", "disk"

ROWS_AT_ONCE = 1_000_000
"""Rows that are joined at once."""

BYTES_PER_CELL = 8
"""What a worker holds of a value: the float, and its bin; of one to measure on, a copy that is larger."""

SHARE = 0.5
"""Of a worker's memory, what the rows may take: gradients, histograms and Python need the rest."""


def choose_place(settings: TrainingSettings, client: Client, rows: int, columns: int) -> Choice:
    """Whether the matrix is held in memory or on disk.

    Args:
        settings: ``external_memory`` decides, if it is set.
        client: Of the cluster that will hold it.
        rows: Rows to train on.
        columns: Features.
    """
    workers = registered(client).values()
    # A worker without a limit says 0.
    allowed = min((w["memory_limit"] for w in workers if w["memory_limit"]), default=0) * SHARE
    wanted = rows * columns * BYTES_PER_CELL / max(1, len(workers))
    fact = f"{rows:,} rows of {columns} features are {wanted / 2**30:.2f} GiB per worker"
    if settings.external_memory is not None:
        return Choice("matrix", DISK if settings.external_memory else MEMORY, f"set in [training]; {fact}")
    if not allowed:
        return Choice("matrix", MEMORY, f"{fact}, which have no limit")
    fact = f"{fact}, and may be {allowed / 2**30:.2f} GiB"
    return Choice("matrix", DISK if wanted > allowed else MEMORY, fact)


def read_rows(
    windows: Sequence[tuple[WindowLabels, SampledPairs]],
    schema: FeatureSchema,
    file: Path | None,
    on_rows: Callable[[int], None],
) -> TrainingRows:
    """Features of sampled pairs as of their windows' starts; a list is a user's rows of one window.

    Args:
        windows: What to learn from, oldest window first.
        schema: The columns.
        file: Where the values go; ``None``: into memory.
        on_rows: Told how many rows were read, now and then.

    Raises:
        StorageError: If the disk is full.
    """

    def told() -> Iterator[NDArray[np.float32]]:
        for label, sampled in windows:
            for start in range(0, len(sampled.codes), ROWS_AT_ONCE):
                values = _values(label, sampled.codes[start : start + ROWS_AT_ONCE], schema)
                yield values
                on_rows(len(values))

    groups, first = [], 0
    for label, sampled in windows:
        groups.append(sampled.codes // len(label.space.items) + first)
        first += len(label.space.users)
    width = len(schema.columns)
    return TrainingRows(
        values=in_memory(told(), sum(map(len, groups)), width)
        if file is None
        else StoredValues.write(file, width, told()),
        labels=np.concatenate([sampled.labels for _, sampled in windows]),
        weights=np.concatenate([sampled.weights for _, sampled in windows]),
        groups=np.concatenate(groups),
    )


def _values(label: WindowLabels, codes: NDArray[np.int64], schema: FeatureSchema) -> NDArray[np.float32]:
    starts = pa.repeat(pa.scalar(label.window.start, pa.timestamp("us", "UTC")), len(codes))
    pairs = label.space.decode(codes).append_column(EVENT_TIMESTAMP, starts)
    return training_matrix(pairs, [label.build], schema)


def in_memory(parts: Iterator[NDArray[np.float32]], rows: int, width: int) -> NDArray[np.float32]:
    """Parts one after the other, float32[rows, width], with never more than one of them beside it."""
    values, at = np.empty((rows, width), np.float32), 0
    for part in parts:
        values[at : at + len(part)] = part
        at += len(part)
    return values
