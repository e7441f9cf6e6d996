"""What happened in a training window, for as many users as the row budget allows, and what of it to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.feature_build import PAIRS, HashRange
from features.schema import ITEM_ID, USER_ID, user_hash
from materialize.training.evaluate import thin_out
from materialize.training.label_windows import LabelWindow, pairs_before, pairs_in_window
from materialize.training.pair_codes import PairCodes, contains
from materialize.training.sampling import MIN_NEGATIVES_PER_USER, SampledPairs, sample_pairs

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild
    from materialize.settings import Settings

RARE_REPEATS = 0.02
"""Where fewer of the positives than this are repeats, lists leave out what the user already has."""


@dataclass(frozen=True)
class WindowLabels:
    """What happened in a training window, in codes.

    Attributes:
        window: The window.
        build: Features as of its start.
        hashes: Users outside are left out, to keep to the row budget.
        space: Users with a positive, and candidates.
        positives: Sorted codes.
        seen: Sorted codes of pairs with an event before the window.
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
    rows = (
        build.rows(PAIRS)
        + len(happened) * settings.training.negatives_per_positive
        + len(users) * MIN_NEGATIVES_PER_USER
    )
    hashes = thin_out(rows, settings.training.max_rows // windows)
    users = users.filter(pa.array(user_hash(users) < hashes.high, pa.bool_()))
    space = PairCodes(users, candidates[ITEM_ID].combine_chunks())
    seen = pairs_before(events, window.start, candidates, pa.table({USER_ID: users}))
    return WindowLabels(window, build, hashes, space, space.encode(happened), space.encode(seen))


def decide_exclude_seen(settings: Settings, labels: list[WindowLabels]) -> tuple[bool, str]:
    """Whether lists leave out what users have, and the reason, for people."""
    asked = settings.training.exclude_seen
    positives = sum(len(label.positives) for label in labels)
    repeats = sum(int(contains(label.seen, label.positives).sum()) for label in labels)
    share = repeats / max(1, positives)
    fact = f"{share:.1%} of the pairs in the training windows had an event before"
    if asked is not None:
        return asked, f"set in [training]; {fact}"
    if share < RARE_REPEATS:
        return True, f"users hardly ever repeat: {fact}"
    return False, f"users repeat: {fact}"


def sample_window(
    settings: Settings, label: WindowLabels, rng: np.random.Generator, *, exclude_seen: bool
) -> SampledPairs:
    """The pairs of a window to learn from."""
    excluded = label.seen if exclude_seen else np.zeros(0, np.int64)
    return sample_pairs(
        label.space,
        label.positives,
        label.space.encode(label.build.read_pairs(label.hashes, [USER_ID, ITEM_ID])),
        excluded=excluded,
        negatives_per_positive=settings.training.negatives_per_positive,
        rng=rng,
    )
