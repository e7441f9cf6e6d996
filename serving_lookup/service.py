"""The parts of one worker put together, started and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_lookup.activation import Activation
from serving_lookup.answers import Readiness
from serving_lookup.arms import Arms
from serving_lookup.cluster_store import ClusterStore
from serving_lookup.fallback import Fallback
from serving_lookup.lookup import Lookup
from serving_lookup.parity import ParityMeter
from serving_lookup.rules import RulesFollower
from serving_lookup.seen import Seen
from serving_lookup.server_store import ServerStore
from serving_lookup.store_address import StoreAddress

if TYPE_CHECKING:
    from materialize.settings import Settings
    from serving_lookup.metrics import WorkerMetrics
    from serving_lookup.store import Store
    from serving_lookup.tracing import Tracing

CONNECT_SECONDS = 2.0
"""How long a worker that starts waits for the store before it serves without it."""

ACTIVATE_SECONDS = 10.0
"""How long it then waits for the live generation: more is needed only where kernels are compiled for the first time."""


@dataclass(frozen=True)
class LookupService:
    """One worker's store connection, live generations, serving rules, fallback and counters."""

    settings: Settings
    store: Store
    activation: Activation
    fallback: Fallback
    rules: RulesFollower
    arms: Arms
    seen: Seen
    parity: ParityMeter | None
    lookup: Lookup
    metrics: WorkerMetrics

    @classmethod
    async def start(cls, settings: Settings, metrics: WorkerMetrics, tracing: Tracing) -> LookupService:
        """Connect and activate what is live; a store that is down is waited for a moment only.

        Raises:
            SettingsError: If ``store.url`` cannot be read.
        """
        deadline = settings.lookup.deadline_ms / 1000
        timeout = min(settings.store.timeout_seconds, deadline)
        address = StoreAddress.parse(settings.store.url.get_secret_value())
        store: Store = (ClusterStore if address.nodes else ServerStore)(address, timeout=timeout)
        fallback = Fallback(store, metrics, settings.lookup, tracing)

        def follow(model: str) -> Activation:
            return Activation(store, settings.project, model, metrics, fallback.warm)

        activation, arms = follow(settings.model), Arms(settings.model, follow)
        rules = RulesFollower(store, settings.project, settings.model, activation.item_kind, arms.follow)
        seen = Seen(store, settings.project, settings.lookup.seen_days)
        share = settings.lookup.parity_share
        parity = ParityMeter(store, settings.project, fallback, metrics, share) if share else None
        lookup = Lookup(store, activation, fallback, rules, arms, seen, parity, metrics, settings.lookup)
        store.start()
        if await store.wait_connected(CONNECT_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(activation.refresh(), ACTIVATE_SECONDS)
                await rules.refresh()
                await asyncio.wait_for(arms.refresh(), ACTIVATE_SECONDS)
        activation.start()
        rules.start()
        return cls(settings, store, activation, fallback, rules, arms, seen, parity, lookup, metrics)

    async def close(self) -> None:
        """Stop everything that was started."""
        if self.parity is not None:
            await self.parity.close()
        await self.rules.close()
        await self.arms.close()
        await self.activation.close()
        await self.fallback.close()
        await self.store.close()

    def readiness(self) -> Readiness:
        """Whether look-ups can be answered."""
        told = (self.store.trouble, self.activation.trouble, self.rules.trouble, *self.arms.trouble)
        troubles = [text for text in told if text]
        live = self.activation.live
        serving = live.pointer.generation if live is not None else None
        return Readiness(
            ready=serving is not None and not self.store.trouble, serving=serving, trouble=troubles
        )

    def gauges(self) -> dict[str, tuple[str, float]]:
        """State of this worker for ``/metrics``: (help, value) by name."""
        live = self.activation.live
        gauges = {
            "prescore_store_connected": (
                "Whether this worker reaches the store.",
                float(not self.store.trouble),
            ),
            "prescore_store_waiting": ("Commands of this worker without a reply.", float(self.store.waiting)),
            "prescore_scorings_under_way": (
                "Users that this worker scores now.",
                float(self.fallback.under_way),
            ),
        }
        if live is not None:
            age = max(time.time() - live.published, 0.0)
            gauges["prescore_generation_age_seconds"] = ("Since the live generation was published.", age)
        return gauges
