"""Deals users out to the arms of an experiment, and keeps the arms' generations at hand."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import mmh3

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.publish.serving_rules import Arm, ServingRules
    from serving_lookup.activation import Activation, LiveGeneration

_BUCKETS = 1 << 32


def choose(rules: ServingRules, user_id: int | str) -> Arm:
    """The arm of a user: the same as long as the weights are; a changed weight moves no more users than it must.

    Weighted rendezvous hashing: each arm draws a number from the user's hash, exponential with its weight as rate, and
    the smallest wins, so arm a wins with probability weight(a) ÷ sum. Source: Schindelhauer and Schomaker, "Weighted
    distributed hash tables" (SPAA 2005).
    """

    def drawn(arm: Arm) -> float:
        if not arm.weight:
            return math.inf
        place = mmh3.hash(f"{rules.experiment}\n{arm.model}\n{user_id}", signed=False)
        return -math.log((place + 0.5) / _BUCKETS) / arm.weight

    return min(rules.arms, key=drawn)


class Arms:
    """The live generations of models other than the service's own.

    Args:
        model: The service's own, which is followed elsewhere.
        activation: Makes what follows another.
    """

    def __init__(self, model: str, activation: Callable[[str], Activation]) -> None:
        self._model, self._activation = model, activation
        self._followed: dict[str, Activation] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, rules: ServingRules) -> None:
        """Follow the models of these arms, and no others."""
        wanted = {arm.model for arm in rules.arms if arm.weight} - {self._model}
        for gone in self._followed.keys() - wanted:
            task = asyncio.get_running_loop().create_task(self._followed.pop(gone).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for new in wanted - self._followed.keys():
            self._followed[new] = self._activation(new)
            self._followed[new].start()

    async def refresh(self) -> None:
        """Read the pointers of all arms now. Never raises."""
        await asyncio.gather(*(activation.refresh() for activation in self._followed.values()))

    async def close(self) -> None:
        """Stop following."""
        await asyncio.gather(*(activation.close() for activation in self._followed.values()), *self._closing)

    @property
    def trouble(self) -> list[str]:
        """Why an arm does not answer as its model's pointer says."""
        return [activation.trouble for activation in self._followed.values() if activation.trouble]

    def activation(self, arm: Arm, base: LiveGeneration) -> Activation | None:
        """What follows an arm's model, if it is not the service's own and can be asked with the same ids now."""
        found = self._followed.get(arm.model)
        if found is None or found.live is None:
            return None
        theirs, ours = found.live.artifact.schema, base.artifact.schema
        same = (theirs.user_id_type, theirs.item_id_type) == (ours.user_id_type, ours.item_id_type)
        return found if same else None
