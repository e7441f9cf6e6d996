"""Chooses from the data what a data scientist would, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from features.definitions.neighbours import neighbours_per_user
from materialize.training.pair_codes import contains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.feature_build import FeatureBuild
    from materialize.settings import Settings
    from materialize.training.label_windows import WindowPlan
    from materialize.training.window_labels import WindowLabels

RARE_REPEATS = 0.02
"""Where fewer of the positives than this are repeats, lists leave out what the user already has."""

SKEWED = 0.25
"""Where the busiest tenth of the users has more of the positives than this, every user weighs less per positive."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why, for people."""

    name: str
    value: Any
    reason: str


def choose_exclude_seen(settings: Settings, labels: Sequence[WindowLabels]) -> Choice:
    """Whether lists leave out what users have."""
    asked = settings.training.exclude_seen
    positives = sum(len(label.positives) for label in labels)
    repeats = sum(int(contains(label.seen, label.positives).sum()) for label in labels)
    share = repeats / max(1, positives)
    fact = f"{share:.1%} of the pairs in the training windows had an event before"
    if asked is not None:
        return Choice("exclude_seen", asked, f"set in [training]; {fact}")
    if share < RARE_REPEATS:
        return Choice("exclude_seen", True, f"users hardly ever repeat: {fact}")
    return Choice("exclude_seen", False, f"users repeat: {fact}")


def choose_even_users(labels: Sequence[WindowLabels]) -> Choice:
    """Whether a user's pairs weigh by the root of their positives, rather than by their number."""
    counts = np.concatenate([label.space.per_user(label.positives) for label in labels])
    busiest = np.sort(counts)[::-1][: max(1, len(counts) // 10)].sum() / max(1, counts.sum())
    fact = f"the busiest tenth of the users has {busiest:.0%} of the positives"
    if busiest > SKEWED:
        return Choice("even_users", True, f"activity is skewed: {fact}; a user weighs by the root of theirs")
    return Choice("even_users", False, f"activity is even: {fact}")


def told_choices(settings: Settings, plan: WindowPlan, build: FeatureBuild) -> list[Choice]:
    """What was chosen before the labels were read: windows, groups, neighbours."""
    own = settings.training
    window, windows = plan.evaluation.days, len(plan.training)
    full = (window, windows) == (own.window_days, own.windows)
    asked = settings.features.neighbours
    users = len(build.read_seen()["user_id"].unique())
    neighbours = neighbours_per_user(asked, users)
    groups = build.schema.groups
    return [
        Choice(
            "windows",
            f"{windows} of {window} days",
            "as set in [training]" if full else "the events reach back no further than for these",
        ),
        Choice(
            "groups",
            ", ".join(groups) or "none",
            "set in [items], chosen by 'prescore init' by their number of values"
            if groups
            else "[items] names none",
        ),
        Choice(
            "neighbours",
            neighbours,
            "as set in [features]"
            if neighbours == asked
            else f"{users:,} users: more would make the pair features too many",
        ),
    ]
