"""Commands streamed over pipelined non-blocking connections, and their replies taken in as they come.

One thread drives all connections: encoding the next batch, sending and receiving take turns, while the
server works on what already lies in the socket's buffer.
"""

from __future__ import annotations

import select
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import hiredis

from features.errors import StoreError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from materialize.publish.feast_block import Rows

_RECEIVE = 1 << 18
_SEND = 1 << 18
_BACKLOG = 1 << 18
"""Bytes that wait on a connection before the next batch is encoded for it."""


class ConnectionLostError(StoreError):
    """A connection broke, or stood still too long, with commands unanswered."""


@dataclass(frozen=True)
class Batch:
    """Commands of some rows of a table: rows int64[n], and n commands in the same order."""

    rows: NDArray[np.int64]
    commands: Rows


class Replies(Protocol):
    """What is done with replies, which come in the order of the rows of :meth:`expect`."""

    def expect(self, batch: Batch) -> None:
        """The commands of a batch are on their way."""

    def take(self, data: bytes) -> None:
        """Bytes came from the server."""

    @property
    def outstanding(self) -> int:
        """Commands without a reply."""


@dataclass
class CountedReplies:
    """Counts integer replies without parsing each; rows of error replies go to ``on_error(row, text)``."""

    on_error: Callable[[int, str], None]
    batches: deque[tuple[Batch, int]] = field(default_factory=deque)
    answered: int = 0
    sent: int = 0
    _first: int = 0
    _tail: bytes = b""

    def expect(self, batch: Batch) -> None:
        """See :class:`Replies`."""
        self.batches.append((batch, self.sent))
        self.sent += len(batch.rows)

    def take(self, data: bytes) -> None:
        """See :class:`Replies`."""
        data = self._tail + data
        end = data.rfind(b"\n") + 1
        whole, self._tail = data[:end], data[end:]
        if b"-" in whole:
            for number, line in enumerate(whole.split(b"\r\n")[:-1]):
                if line[:1] == b"-":
                    self.on_error(self._row(self.answered + number), line[1:].decode(errors="replace"))
        self.answered += whole.count(b"\n")
        while self.batches and self.batches[0][1] + len(self.batches[0][0].rows) <= self.answered:
            self.batches.popleft()

    def _row(self, reply: int) -> int:
        for batch, first in self.batches:
            if reply - first < len(batch.rows):
                return int(batch.rows[reply - first])
        raise StoreError("the store sent a reply too many")

    @property
    def outstanding(self) -> int:
        """Commands without a reply."""
        return self.sent - self.answered


@dataclass
class ReadReplies:
    """Puts the replies of reading commands into ``values[row]``; errors go to ``on_error(row, text)``."""

    values: list[bytes | None]
    on_error: Callable[[int, str], None]
    rows: deque[int] = field(default_factory=deque)
    _reader: hiredis.Reader = field(default_factory=hiredis.Reader)

    def expect(self, batch: Batch) -> None:
        """See :class:`Replies`."""
        self.rows.extend(batch.rows.tolist())

    def take(self, data: bytes) -> None:
        """See :class:`Replies`."""
        self._reader.feed(data)
        gets, next_row, values = self._reader.gets, self.rows.popleft, self.values
        while (value := gets()) is not False:
            row = next_row()
            if isinstance(value, hiredis.ReplyError):
                self.on_error(row, str(value))
            else:
                values[row] = value

    @property
    def outstanding(self) -> int:
        """Commands without a reply."""
        return len(self.rows)


@dataclass
class Lane:
    """One connection and what is under way on it."""

    name: str
    sock: socket.socket
    replies: Replies
    backlog: deque[memoryview] = field(default_factory=deque)
    waiting: int = 0
    bytes_sent: int = 0

    def __post_init__(self) -> None:
        self.sock.setblocking(False)

    def queue(self, batch: Batch) -> None:
        """Add commands to what is to be sent."""
        data = batch.commands.data.data
        self.backlog.append(data)
        self.waiting += len(data)
        self.replies.expect(batch)

    def pump(self) -> bool:
        """Send and receive what is possible at once; whether anything moved.

        Raises:
            ConnectionLostError: If the other side has closed, or answers what is no reply.
        """
        try:
            sent = self._send()
            received = self._receive()
        except (OSError, hiredis.ProtocolError) as error:
            raise ConnectionLostError(f"the connection to {self.name} broke", got=str(error)) from error
        return sent or received

    def _send(self) -> bool:
        if not self.backlog:
            return False
        head = self.backlog[0]
        try:
            count = self.sock.send(head[:_SEND])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self.waiting -= count
        self.bytes_sent += count
        if count == len(head):
            self.backlog.popleft()
        else:
            self.backlog[0] = head[count:]
        return True

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not data:
            raise ConnectionResetError("closed by the server")
        self.replies.take(data)
        return True

    @property
    def idle(self) -> bool:
        """Whether everything was sent and answered."""
        return not self.backlog and not self.replies.outstanding


def stream(lanes: Sequence[Lane], next_batch: Callable[[Lane], Batch | None], timeout: float) -> None:
    """Send all that ``next_batch`` gives each lane, until it gives ``None`` and every reply is in.

    Args:
        lanes: Connections, nothing under way on them.
        next_batch: Asked whenever a lane has little left to send; ``None``: nothing more for this lane.
        timeout: Longest time in which not a byte moves on any lane, in seconds.

    Raises:
        ConnectionLostError: If a connection breaks, or nothing moves for so long.
    """
    open_lanes = list(lanes)
    hungry = set(map(id, lanes))
    moved_at = time.monotonic()
    while open_lanes:
        moved = False
        for lane in open_lanes:
            while id(lane) in hungry and lane.waiting < _BACKLOG:
                batch = next_batch(lane)
                if batch is None:
                    hungry.discard(id(lane))
                else:
                    lane.queue(batch)
                    moved = True
            moved |= lane.pump()
        open_lanes = [lane for lane in open_lanes if id(lane) in hungry or not lane.idle]
        if moved:
            moved_at = time.monotonic()
        elif open_lanes:
            _wait(open_lanes, moved_at, timeout)


def _wait(lanes: Sequence[Lane], moved_at: float, timeout: float) -> None:
    left = moved_at + timeout - time.monotonic()
    if left <= 0:
        unanswered = sum(lane.replies.outstanding for lane in lanes)
        raise ConnectionLostError(
            f"the store at {lanes[0].name} stopped answering: nothing moved for {timeout:g} s",
            got=f"{unanswered} commands without a reply",
            fix="check the network and the server's load, or raise [store] timeout_seconds",
        )
    poll = select.poll()
    for lane in lanes:
        poll.register(lane.sock, select.POLLIN | (select.POLLOUT if lane.backlog else 0))
    poll.poll(left * 1000)
