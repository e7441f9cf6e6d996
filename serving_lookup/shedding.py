"""Refusals of a worker that has too much to do: each waits its turn, so that refusing never takes the time answering needs.

A client that is refused at once asks again at once. Where reading a request and refusing it costs a third of answering it,
twice the load that can be answered would leave no time to answer any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PER_SECOND: Final = 4000
"""Refusals cost a tenth of a worker's time then."""

_TICK_SECONDS: Final = 0.01


class Shedding:
    """Those who wait to be refused, the first first. Use within one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._since = 0.0

    def refuse(self, tell: Callable[[], None]) -> None:
        """Call this when it is its turn, in a hundredth of a second or, where thousands wait, some tenths of one."""
        if not self._waiting:
            self._tick()
        self._waiting.append(tell)

    async def turn(self) -> None:
        """Wait for a turn."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refuse(partial(_settle, told))
        await told

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        loop.call_later(_TICK_SECONDS, self._tell_some)

    def _tell_some(self) -> None:
        passed = (
            asyncio.get_running_loop().time() - self._since
        )  # longer than a tick where the loop is behind
        for _ in range(min(int(MOST_PER_SECOND * passed), len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._tick()


def _settle(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
