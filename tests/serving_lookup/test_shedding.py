"""Refusals come in order, a few at a time; none is lost."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from serving_lookup.shedding import MOST_PER_SECOND, Shedding


def test_each_is_told_in_its_turn_and_not_all_at_once() -> None:
    async def told() -> tuple[list[int], float]:
        shedding, order = Shedding(), list[int]()
        begun = time.perf_counter()
        for number in range(300):
            shedding.refuse(partial(order.append, number))
        assert order == []
        await shedding.turn()
        return order, time.perf_counter() - begun

    order, took = asyncio.run(told())
    assert order == list(range(300))
    assert took >= 300 / MOST_PER_SECOND


def test_whoever_has_gone_is_passed_over() -> None:
    async def run() -> None:
        shedding = Shedding()
        gone = asyncio.ensure_future(shedding.turn())
        await asyncio.sleep(0)
        gone.cancel()
        await shedding.turn()

    asyncio.run(run())
