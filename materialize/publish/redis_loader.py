"""Writes blocks of users into Redis or Valkey in Feast's format, as fast as the server takes them.

A loader belongs to one process and thread; a worker makes its own from the URL. Rows are routed by slot in
a cluster. A connection that breaks, or a primary that changed, is an error on a single server, which may
have lost what it had accepted; under Sentinel or in a cluster the rows of the call are sent again to the
new primary (every command is idempotent) until nothing has advanced for the time-out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import redis
import structlog

from features.errors import SchemaMismatchError, StoreError
from features.schema import USER_ID
from materialize.publish.feast_block import Rows, encode_column, entity_keys
from materialize.publish.feast_format import Kind, encode_timestamp, encode_value, field_hash, timestamp_field
from materialize.publish.hash_dumps import fits_dump, restore_commands
from materialize.publish.redis_connections import refusal, store_error
from materialize.publish.redis_routes import Routes
from materialize.publish.resp_commands import commands, hset_commands
from materialize.publish.resp_stream import (
    Batch,
    ConnectionLostError,
    CountedReplies,
    Lane,
    ReadReplies,
    stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from materialize.publish.resp_stream import Replies

SLOT_FEATURES = ("item_ids", "scores", "generation")
"""Features of a slot's view."""

_BATCH_BYTES = 4 << 20
"""Size of what is encoded at a time, as it lies in memory: enough that the work per batch no longer shows, and that
the server has something to do meanwhile."""

_LEAST_ROWS, _MOST_ROWS = 64, 8192

_AGAIN = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "UNBLOCKED")
_NOT_CREATED = ("BUSYKEY", "NOPERM", "ERR unknown command", "ERR Bad data format", "ERR DUMP payload")
"""Refusals of RESTORE for which HSET is the way: the key is there, or this server or user has no such command or format."""

_PAUSE = 0.05
_ASKING = b"*1\r\n$6\r\nASKING\r\n"

logger = structlog.get_logger()


@dataclass(frozen=True)
class LoadResult:
    """What a write did.

    Attributes:
        rows_sent: Rows given.
        rows_accepted: Rows whose command the store confirmed; equal to ``rows_sent``, or an error was raised.
        bytes: Sent, repeats included.
    """

    rows_sent: int
    rows_accepted: int
    bytes: int


class RedisLoader:
    """Pipelined connections to one store, for one Feast project. Close it, or use it as a context."""

    def __init__(self, url: str, project: str, connections: int = 2, timeout: float = 10.0) -> None:
        """Connect.

        Args:
            url: As :func:`materialize.publish.redis_connections.open_store` takes it.
            project: Feast project.
            connections: Per server.
            timeout: Longest time in which nothing moves, in seconds.

        Raises:
            StoreError: If the store cannot be reached or refuses user and password.
        """
        self._project, self._timeout = project, timeout
        self._routes = Routes(url, connections, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._routes.close()

    def load(self, view: str, table: pa.Table, timestamp: datetime, entity: str = USER_ID) -> LoadResult:
        """Write one row per user, whatever was there.

        Args:
            view: Feast feature view.
            table: Column ``entity`` and one column per feature.
            timestamp: Event timestamp of all rows, with a zone.
            entity: Join key.

        Raises:
            SchemaMismatchError: If a column has a type that Feast's online store has no place for.
            StoreError: If the store refuses (full, read-only, password) or stops answering.
        """
        if timestamp.tzinfo is None:
            raise SchemaMismatchError("the timestamp of a load has no zone", got=timestamp.isoformat())
        features = [name for name in table.column_names if name != entity]
        stamp = encode_timestamp(round(timestamp.timestamp() * 1_000_000))

        def encode(part: pa.Table) -> Rows:
            keys = entity_keys({entity: part[entity]}, self._project)
            columns = {name: encode_column(part[name]) for name in features}
            return hset_commands(view, keys, columns, stamp)

        keys = entity_keys({entity: table[entity]}, self._project) if self._routes.cluster else None
        return self._write(table.num_rows, keys, lambda rows: encode(_take(table, rows)), table.nbytes)

    def write(self, view: str, keys: Rows, columns: Mapping[str, Rows], timestamps: Rows) -> LoadResult:
        """Write rows that are encoded already, each with its own timestamp, whatever was there."""

        def encode(rows: NDArray[np.int64]) -> Rows:
            return hset_commands(
                view,
                keys.take(rows),
                {name: column.take(rows) for name, column in columns.items()},
                timestamps.take(rows),
            )

        size = keys.data.nbytes + sum(column.data.nbytes for column in columns.values())
        return self._write(len(keys), keys, encode, size)

    def create(
        self, view: str, keys: Rows, columns: Mapping[str, Rows], timestamps: Rows
    ) -> NDArray[np.int64]:
        """Write rows of entities that the store has nothing of; no key that is there is touched.

        Costs the server little more than half of what :meth:`write` does.

        Returns:
            Numbers of the rows that were not written, ascending: their entity is there, a value is too long, or the
            server does not take whole hashes from us.
        """
        fits = fits_dump(columns)
        short, left = np.flatnonzero(fits), np.flatnonzero(~fits).tolist()
        if not len(short):
            return np.array(left, np.int64)
        keys, timestamps = keys.take(short), timestamps.take(short)
        columns = {name: column.take(short) for name, column in columns.items()}

        def encode(rows: NDArray[np.int64]) -> Rows:
            values = {name: column.take(rows) for name, column in columns.items()}
            return restore_commands(view, keys.take(rows), values, timestamps.take(rows))

        def leave(row: int, text: str) -> bool:
            refused = text.startswith(_NOT_CREATED)
            if refused:
                left.append(int(short[row]))
            return refused

        size = keys.data.nbytes + sum(column.data.nbytes for column in columns.values())
        self._run(len(short), keys, encode, CountedReplies, size, leave)
        return np.array(sorted(left), np.int64)

    def remove_view(
        self,
        view: str,
        ids: pa.Array | pa.ChunkedArray,
        features: Sequence[str] = SLOT_FEATURES,
        entity: str = USER_ID,
    ) -> LoadResult:
        """Remove a view's fields of some users; other views of the users stay.

        Args:
            view: Feast feature view.
            ids: Of the users.
            features: All features of the view.
            entity: Join key.
        """
        keys = entity_keys({entity: ids}, self._project)
        fields = [timestamp_field(view), *(field_hash(view, feature) for feature in features)]
        return self._write(len(keys), keys, lambda rows: commands(b"HDEL", [keys.take(rows), *fields]))

    def expire(self, keys: Rows, seconds: int) -> LoadResult:
        """Let whole entities expire, all their views with them."""
        return self._write(
            len(keys), keys, lambda rows: commands(b"EXPIRE", [keys.take(rows), str(seconds).encode()])
        )

    def read_field(self, keys: Rows, field: bytes) -> list[bytes | None]:
        """One field of every key, in the order of the keys; ``None`` where there is none."""
        values: list[bytes | None] = [None] * len(keys)

        self._run(
            len(keys),
            keys,
            lambda rows: commands(b"HGET", [keys.take(rows), field]),
            lambda on_error: ReadReplies(values, on_error),
        )
        return values

    def count_generation(
        self, view: str, ids: pa.Array | pa.ChunkedArray, generation: str, entity: str = USER_ID
    ) -> int:
        """How many of the users hold a row of this generation in a slot: an exact check before a flip."""
        wanted = encode_value(generation, Kind.STRING)
        keys = entity_keys({entity: ids}, self._project)
        return sum(value == wanted for value in self.read_field(keys, field_hash(view, "generation")))

    def all_ids(self, entity: str = USER_ID) -> Iterator[pa.Array]:
        """Ids of all entities with any row, page by page: int64 or string arrays, possibly with repeats."""
        return self._routes.scan_ids(self._project, entity)

    def stored_ids(self, view: str, entity: str = USER_ID) -> pa.Array:
        """Ids of all users with a row in a view, int64 or string, in no order. Scans the whole store."""
        found: list[int | str] = []
        for ids in self._routes.scan_ids(self._project, entity):
            keys = entity_keys({entity: ids}, self._project)
            stamps = self.read_field(keys, timestamp_field(view))
            found += [i for i, stamp in zip(ids.to_pylist(), stamps, strict=True) if stamp is not None]
        # SCAN may give a key twice.
        return pa.array(list(dict.fromkeys(found)))

    def _write(
        self, n: int, keys: Rows | None, encode: Callable[[NDArray[np.int64]], Rows], size: int = 0
    ) -> LoadResult:
        sent = self._run(n, keys, encode, CountedReplies, size)
        return LoadResult(n, n, sent)

    def _run(
        self,
        n: int,
        keys: Rows | None,
        encode: Callable[[NDArray[np.int64]], Rows],
        replies: Callable[[Callable[[int, str], None]], Replies],
        size: int = 0,
        leave: Callable[[int, str], bool] | None = None,
    ) -> int:
        """Send the commands of n rows until each is answered without an error; the bytes sent.

        Args:
            n: Rows.
            keys: Of all rows; a cluster needs them.
            encode: Makes the commands of some rows.
            replies: Makes what takes the replies, given what takes errors.
            size: Of all rows, in bytes.
            leave: Whether an error of a row is the caller's, who then has taken note of it.
        """
        batch = _MOST_ROWS if not size else min(_MOST_ROWS, max(_LEAST_ROWS, _BATCH_BYTES * n // size))
        pending = np.arange(n)
        total = 0
        give_up = time.monotonic() + self._timeout
        while len(pending):
            again, count, reason = self._round(pending, keys, encode, replies, batch, leave)
            total += count
            now = time.monotonic()
            if len(again) < len(pending):
                give_up = now + self._timeout
            elif now > give_up:
                raise reason or StoreError(f"the store at {self._routes.name} keeps redirecting")
            pending = again
            if len(pending):
                logger.warning("rows are sent again", rows=len(pending), reason=str(reason))
                time.sleep(_PAUSE)
                self._routes.refresh()
        return total

    def _round(
        self,
        pending: NDArray[np.int64],
        keys: Rows | None,
        encode: Callable[[NDArray[np.int64]], Rows],
        replies: Callable[[Callable[[int, str], None]], Replies],
        batch: int,
        leave: Callable[[int, str], bool] | None,
    ) -> tuple[NDArray[np.int64], int, StoreError | None]:
        """One attempt at some rows: those to try again, the bytes sent, and why they failed."""
        again: dict[int, StoreError] = {}
        asked: dict[str, list[int]] = {}
        refuse = self._sorted_out(again, asked, leave)
        lanes: list[Lane] = []
        try:
            batches: dict[int, Iterator[NDArray[np.int64]]] = {}
            for group in self._routes.group(pending, keys):
                chunks = iter([group.rows[i : i + batch] for i in range(0, len(group.rows), batch)])
                for sock in group.sockets:
                    lanes.append(Lane(group.name, sock, replies(refuse)))
                    batches[id(lanes[-1])] = chunks

            def next_batch(lane: Lane) -> Batch | None:
                rows = next(batches[id(lane)], None)
                return None if rows is None else Batch(rows, encode(rows))

            stream(lanes, next_batch, self._timeout)
            self._ask(asked, encode, lambda: replies(refuse))
        except (ConnectionLostError, redis.RedisError, OSError) as error:
            self._routes.drop()
            lost = error if isinstance(error, StoreError) else store_error(error, self._routes.url)
            if not self._routes.follows:
                raise lost from error
            # What the lost server had confirmed may be lost with it: the whole call's rows go again.
            return pending, sum(lane.bytes_sent for lane in lanes), lost
        except BaseException:
            self._routes.drop()
            raise
        reason = next(iter(again.values()), None)
        return np.array(sorted(again), np.int64), sum(lane.bytes_sent for lane in lanes), reason

    def _sorted_out(
        self,
        again: dict[int, StoreError],
        asked: dict[str, list[int]],
        leave: Callable[[int, str], bool] | None,
    ) -> Callable[[int, str], None]:
        """What takes the error replies of rows: to try again, to ask elsewhere, left to the caller, or raised."""

        def refuse(row: int, text: str) -> None:
            if leave is not None and leave(row, text):
                return
            error = refusal(text, self._routes.url)
            if not (self._routes.follows and text.startswith(_AGAIN)):
                raise error
            if text.startswith("ASK "):
                asked.setdefault(text.split()[2], []).append(row)
            else:
                again[row] = error

        return refuse

    def _ask(
        self,
        asked: dict[str, list[int]],
        encode: Callable[[NDArray[np.int64]], Rows],
        replies: Callable[[], Replies],
    ) -> None:
        """Send rows of slots on the move to where they move to, each after ASKING, which has a reply of its own."""
        for address, rows in list(asked.items()):
            numbers = np.array(rows, np.int64)
            pairs = b"".join(_ASKING + encode(numbers[i : i + 1])[0] for i in range(len(numbers)))
            batch = Batch(
                np.repeat(numbers, 2), Rows(np.array([0, len(pairs)]), np.frombuffer(pairs, np.uint8))
            )
            left = [batch]
            lane = Lane(address, self._routes.redirected(address), replies())
            stream([lane], lambda _: left.pop() if left else None, self._timeout)  # noqa: B023 - used at once


def _take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return table.slice(int(rows[0]), len(rows))
    return table.take(rows)
