"""What happened in a training window, for as many users as the row budget allows, and what of it to learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schema import ITEM_ID, USER_ID, user_hash
from materialize.training.evaluate import thin_out
from materialize.training.label_windows import LabelWindow, pairs_in_window
from materialize.training.pair_codes import PairCodes, without
from materialize.training.sampling import (
    MIN_NEAR_PER_USER,
    MIN_NEGATIVES_PER_USER,
    SampledPairs,
    sample_pairs,
)

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild, HashRange
    from materialize.settings import Settings


@dataclass(frozen=True)
class WindowLabels:
    """What happened in a training window, in codes.

    Attributes:
        window: The window.
        build: Features as of its start.
        hashes: Users outside are left out, to keep to the row budget.
        space: Users with a positive, and candidates.
        positives: Sorted codes.
        seen: Sorted codes of pairs with an event in the pair history before the window.
    """

    window: LabelWindow
    build: FeatureBuild
    hashes: HashRange
    space: PairCodes
    positives: NDArray[np.int64]
    seen: NDArray[np.int64]


def read_labels(
    settings: Settings, events: ir.Table, window: LabelWindow, build: FeatureBuild, windows: int
) -> WindowLabels:
    """Positives of a window, for as many users as the row budget allows.

    Args:
        settings: ``max_rows`` and ``negatives_per_positive`` of ``[training]``.
        events: ``user_id, item_id, event_time``.
        window: The window.
        build: Features as of its start.
        windows: How many windows share the budget.
    """
    candidates = build.read_items([ITEM_ID])
    happened = pairs_in_window(events, window, candidates)
    users = pc.unique(happened[USER_ID])
    rows = len(happened) * (settings.training.negatives_per_positive + 3) + len(users) * (
        MIN_NEGATIVES_PER_USER + 2 * MIN_NEAR_PER_USER
    )
    hashes = thin_out(rows, settings.training.max_rows // windows)
    users = users.filter(pa.array(user_hash(users) < hashes.high, pa.bool_()))
    space = PairCodes(users, candidates[ITEM_ID].combine_chunks())
    seen = space.encode(build.read_seen(hashes))
    return WindowLabels(window, build, hashes, space, space.encode(happened), seen)


def sample_window(
    settings: Settings, label: WindowLabels, rng: np.random.Generator, *, exclude_seen: bool, even_users: bool
) -> SampledPairs:
    """The pairs of a window to learn from.

    Args:
        settings: ``negatives_per_positive`` of ``[training]``.
        label: What happened.
        rng: Source of every draw.
        exclude_seen: Leave out what users had.
        even_users: Weigh a user's pairs by the inverse root of their positives; on average weights stay.
    """
    every = label.space.encode(label.build.read_pairs(label.hashes, [USER_ID, ITEM_ID]))
    near = without(every, label.seen)
    sampled = sample_pairs(
        label.space,
        label.positives,
        [near] if exclude_seen else [label.seen, near],
        excluded=label.seen if exclude_seen else np.zeros(0, np.int64),
        negatives_per_positive=settings.training.negatives_per_positive,
        rng=rng,
    )
    if not even_users:
        return sampled
    factor = 1 / np.sqrt(np.maximum(1, label.space.per_user(label.positives)))
    weights = sampled.weights * factor[sampled.codes // len(label.space.items)]
    scale = sampled.weights.sum(dtype=np.float64) / weights.sum(dtype=np.float64)
    return replace(sampled, weights=(weights * scale).astype(np.float32))
