"""Contestants that take turns, round after round, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VIEW, OTHER_VIEW, PROJECT = "recommendations_a", "recommendations_b", "shop"
"""Names as a user's own have, for their length is part of what is written."""


@dataclass(frozen=True)
class Contestant:
    """One way to write lists.

    Attributes:
        name: As the table shows it.
        users: Written by one call.
        write: The call.
        prepare: Called before it, outside the measured time.
    """

    name: str
    users: int
    write: Callable[[], None]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds: users per second, and how many times as fast the first contestant is."""

    name: str
    users_per_second: float
    ours_is_times_as_fast: float


def race(contestants: Sequence[Contestant], rounds: int) -> list[Measured]:
    """Measure contestants in turn; one round before does not count.

    Args:
        contestants: Ours first.
        rounds: How often each has its turn.
    """
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            contestant.prepare()
            began = time.perf_counter()
            contestant.write()
            if number:
                rates[contestant.name].append(contestant.users / (time.perf_counter() - began))
    ours = rates[contestants[0].name]
    return [
        Measured(
            name,
            statistics.median(theirs),
            statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
        )
        for name, theirs in rates.items()
    ]
