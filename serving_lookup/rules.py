"""Follows the serving rules in the store, so that arms, stock and caps change without a restart."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from features.errors import PrescoreError, StoreError
from materialize.publish.serving_rules import RULES, VERSION, ServingRules, rules_key
from serving_lookup.problems import Problem
from serving_lookup.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from serving_lookup.store import Store

log = structlog.get_logger()

POLL_SECONDS = 0.5


class RulesFollower:
    """Keeps :attr:`rules` equal to what the store says; rules that cannot be followed change nothing.

    Args:
        store: Where they are.
        project: Feast project.
        model: Whose rules.
        item_kind: Type of item ids; ``None`` as long as no generation is live.
        changed: Called in the event loop after each change.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        model: str,
        item_kind: Callable[[], Literal["int64", "string"] | None],
        changed: Callable[[ServingRules], None],
    ) -> None:
        self.rules = ServingRules()
        self.screen: Screen | None = None
        """What the rules let through; ``None``: everything."""
        self.version = b""
        self.trouble = ""
        """Why :attr:`rules` are not what the store says; empty while they are."""
        self._store, self._key, self._item_kind, self._changed = (
            store,
            rules_key(project, model),
            item_kind,
            changed,
        )
        self._refused: bytes | None = None
        self._poll: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to poll."""
        self._poll = asyncio.get_running_loop().create_task(self._poll_forever())

    async def close(self) -> None:
        """Stop polling."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)

    async def refresh(self) -> None:
        """Read the version, and the rules if it is another. Never raises."""
        version = self.version
        try:
            version = await self._store.call(b"HGET", self._key, VERSION) or b""
            kind = self._item_kind()
            if version == self.version:
                self._refused, self.trouble = None, ""
            elif version != self._refused and kind is not None:
                await self._follow(kind)
        except StoreError:
            return  # readiness tells that the store is away; what was followed still holds
        except (PrescoreError, Problem) as error:
            self._refused = version
            self._complain(str(error))

    async def _follow(self, kind: Literal["int64", "string"]) -> None:
        version, raw = await self._store.call(b"HMGET", self._key, VERSION, RULES)
        rules = ServingRules.decode(raw) if raw else ServingRules()
        self.screen = Screen.of(rules, kind)
        self.rules, self.version, self._refused, self.trouble = rules, version or b"", None, ""
        log.info(
            "rules_followed",
            version=self.version.decode(errors="replace"),
            unavailable=len(rules.unavailable),
            arms={arm.model: arm.weight for arm in rules.arms},
        )
        self._changed(rules)

    async def _poll_forever(self) -> None:
        while True:
            await self.refresh()
            # Until a generation is live there are no rules to follow, but then they must hold at once.
            await asyncio.sleep(POLL_SECONDS if self._item_kind() is not None else POLL_SECONDS / 10)

    def _complain(self, why: str) -> None:
        if why != self.trouble:
            with contextlib.suppress(OSError):
                log.warning("rules_refused", why=why)
        self.trouble = why
