"""A Redis or Valkey cluster: each command goes to the node that has its key's slot, and follows a slot that moves.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import hiredis
import structlog

from features.errors import StoreError
from serving_lookup.server_store import RETRY_SECONDS, ServerStore
from serving_lookup.store import Store, pack, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from serving_lookup.store_address import StoreAddress

    Place = tuple[str, int]

log = structlog.get_logger()

SLOTS: Final = 16384
_MAP_SECONDS: Final = 10.0
"""The map of slots is read again at least so often; a reply that shows that it is old makes it sooner."""

_MOST_REDIRECTIONS: Final = 5


def slot_of(key: bytes) -> int:
    """Slot of a key: of its first non-empty ``{…}`` if it has one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class ClusterStore(Store):
    """All primaries of a cluster, one connection to each.

    Args:
        address: Names some nodes.
        timeout: Longest wait for one reply, in seconds.
    """

    def __init__(self, address: StoreAddress, *, timeout: float) -> None:
        super().__init__(address)
        self._timeout = timeout
        self._nodes: dict[Place, ServerStore] = {}
        self._owners: list[ServerStore | None] = [None] * SLOTS
        self._primaries: set[ServerStore] = set()
        self._map_trouble = "the cluster's map has not been read yet"
        self._mapped, self._old_map = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def trouble(self) -> str:  # type: ignore[override]  # the other store keeps it as it comes
        """Why some slots cannot be reached; empty while all can."""
        return self._map_trouble or next((node.trouble for node in self._primaries if node.trouble), "")

    @property
    def waiting(self) -> int:
        """Commands whose replies have not come."""
        return sum(node.waiting for node in self._nodes.values())

    def start(self) -> None:
        """Connect in the background, again and again if need be."""
        self._in_background(self._keep_map())

    async def wait_connected(self, seconds: float) -> bool:
        """Wait until all slots can be reached, at most so long; whether they can."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._mapped.wait()
                await asyncio.gather(*(node.wait_connected(seconds) for node in self._primaries))
        return not self.trouble

    async def close(self) -> None:
        """Stop connecting and drop connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def ask(self, packed: bytes, answered: Callable[[Any], None]) -> None:
        """As of :class:`Store`."""
        _, _, _, length, rest = packed.split(b"\r\n", 4)  # *n, $length, command, $length, key and the rest
        node = self._owners[slot_of(rest[: int(length[1:])])]
        if node is None:
            raise unreachable(self._map_trouble or "no node serves a slot of the cluster")
        try:
            node.ask(packed, partial(self._answered, node, packed, answered, _MOST_REDIRECTIONS))
        except StoreError:  # perhaps another node has its place now
            self._old_map.set()
            raise

    async def send_all(self, commands: Sequence[bytes]) -> list[Any]:
        """As of :class:`Store`: one write and one round trip for each node."""
        replies: list[Any] = [None] * len(commands)
        missing, last = len(commands), self._loop.create_future()

        def place(number: int, reply: Any) -> None:
            nonlocal missing
            replies[number] = reply
            missing -= 1
            if not missing and not last.done():
                last.set_result(None)

        for number, command in enumerate(commands):
            try:
                self.ask(command, partial(place, number))
            except StoreError as error:
                place(number, error)
        if commands:
            await last
        return replies

    def _answered(
        self, node: ServerStore, packed: bytes, answered: Callable[[Any], None], most: int, reply: Any
    ) -> None:
        if isinstance(reply, StoreError):
            self._old_map.set()
        elif isinstance(reply, hiredis.ReplyError) and most:
            kind, _, told = str(reply).partition(" ")
            if kind in {"MOVED", "ASK"}:
                if kind == "MOVED":
                    self._old_map.set()
                host, _, port = told.rpartition(" ")[2].rpartition(":")
                place = (host or node.address.host, int(port))
                again = self._again(place, packed, answered, most - 1, asking=kind == "ASK")
                self._in_background(again)
                return
        answered(reply)

    async def _again(
        self, place: Place, packed: bytes, answered: Callable[[Any], None], most: int, *, asking: bool
    ) -> None:
        """Ask the node that another one named."""
        node = self._node(place)
        try:
            await node.wait_connected(self._timeout)
            told = partial(self._answered, node, packed, answered, most)
            if asking:
                node.ask_in_turn(pack(b"ASKING") + packed, [_ignore, told])
            else:
                node.ask(packed, told)
        except StoreError as error:
            answered(error)

    def _node(self, place: Place) -> ServerStore:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = ServerStore(self.address.node(*place), timeout=self._timeout)
            node.start()
        return node

    def _in_background(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the map of slots --------------------------------------------------------------------------------------------

    async def _keep_map(self) -> None:
        while True:
            self._old_map.clear()
            await self._read_map()
            pause = RETRY_SECONDS[-1] if self._map_trouble else _MAP_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._old_map.wait(), pause)
            await asyncio.sleep(RETRY_SECONDS[1])  # a node that fails is told by many replies at once

    async def _read_map(self) -> None:
        """Ask the first node that answers which node has which slots."""
        trouble = ""
        for node in self._who_may_know():
            try:
                if await node.wait_connected(self._timeout):
                    await self._follow(node, await node.call(b"CLUSTER", b"SLOTS"))
                    return
                trouble = f"{node.address!r}: {node.trouble}"
            except StoreError as error:
                trouble = f"{node.address!r}: {error}"
        self._map_trouble = trouble

    def _who_may_know(self) -> Iterator[ServerStore]:
        yield from [node for node in self._nodes.values() if not node.trouble]
        yield from [self._node(place) for place in self.address.nodes]

    async def _follow(self, teller: ServerStore, ranges: list[Any]) -> None:
        owners: list[ServerStore | None] = [None] * SLOTS
        for first, last, primary, *_ in ranges:
            place = (primary[0].decode() or teller.address.host, int(primary[1]))
            owners[first : last + 1] = [self._node(place)] * (last + 1 - first)
        self._owners, self._primaries = owners, {node for node in owners if node is not None}
        self._map_trouble = "" if None not in owners else "no node serves some slots of the cluster"
        self._mapped.set()
        kept = {*self._primaries, *(self._nodes.get(place) for place in self.address.nodes)}
        for place, node in list(self._nodes.items()):
            if node not in kept:
                log.info("node_left", address=repr(node.address))
                await self._nodes.pop(place).close()


def _ignore(reply: Any) -> None:
    """What ASKING is answered says nothing; the command behind it does."""
