"""What look-ups ask of Redis or Valkey: packed commands out, replies to callbacks, futures or lists; whoever connects."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis

from features.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serving_lookup.store_address import StoreAddress


def pack(*arguments: bytes) -> bytes:
    """A command as RESP bytes: an array of bulk strings.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments])


class Store(ABC):
    """The store as one worker process sees it. Use within one event loop.

    Args:
        address: Where it is.
    """

    trouble: str
    """Why the store cannot be reached; empty while it can."""

    def __init__(self, address: StoreAddress) -> None:
        self.address = address

    @abstractmethod
    def start(self) -> None:
        """Connect in the background, again and again if need be."""

    @abstractmethod
    async def wait_connected(self, seconds: float) -> bool:
        """Wait for a connection, at most so long; whether there is one."""

    @abstractmethod
    async def close(self) -> None:
        """Stop connecting and drop connections."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Commands whose replies have not come."""

    @abstractmethod
    def ask(self, packed: bytes, answered: Callable[[Any], None]) -> None:
        """Send a packed command with the others of this turn of the loop.

        Args:
            packed: See :func:`pack`; its key is its second argument.
            answered: Gets the reply, once. An error reply is of type ``hiredis.ReplyError``; a connection that broke
                or a reply that took too long, a :class:`StoreError`. It must not raise.

        Raises:
            StoreError: At once if there is no connection or too much is waiting; nothing will be told then.
        """

    @abstractmethod
    async def send_all(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands together; their replies in their order, errors in the places of replies. Never raises."""

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """As :meth:`ask`; the reply is the future's result, a broken connection its exception."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask(packed, partial(settle, future))
        return future

    async def call(self, *arguments: bytes) -> Any:
        """Send a command and return its reply.

        Raises:
            StoreError: If the store is unreachable, slow, or refuses the command.
        """
        return accepted(await self.send(pack(*arguments)))


def settle(future: asyncio.Future[Any], reply: Any) -> None:
    """Give a reply to whoever waits for it still."""
    if not future.done():
        if isinstance(reply, StoreError):
            future.set_exception(reply)
        else:
            future.set_result(reply)


def accepted(reply: Any) -> Any:
    """A reply that is no error.

    Raises:
        StoreError: If the store refused the command, or did not answer.
    """
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError("the store refused a command", got=str(reply))
    return reply


def unreachable(why: str) -> StoreError:
    """No connection, and why."""
    return StoreError("the store cannot be reached", got=why)
