"""The fence: at most one publisher per model, and a token that unmasks one who was thought dead.

A holder renews its lease while it works. A fence can be taken over when its lease has ended, or at
once when its process is known to be gone: same host, and no process of that id and start time.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from features.errors import ConflictError, RetryableError
from materialize.generation.records import Fence
from materialize.generation.tables import FENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.generation.database import Database

LEASE = timedelta(seconds=60)

_log = structlog.get_logger()


def acquire_fence(database: Database, model: str, owner: str) -> Fence:
    """Become the only publisher of a model.

    Args:
        database: The catalogue's.
        model: The model's name.
        owner: Who asks, in words; the loser of a race is told the winner's.

    Raises:
        ConflictError: If another publisher holds the fence; names it.
    """
    pid = os.getpid()
    mine = {"owner": owner[:200], "host": _host(), "pid": pid, "pid_started": _started(pid)}
    with database.write() as connection:
        row = connection.execute(
            sa.select(FENCE).where(FENCE.c.model == model).with_for_update()
        ).one_or_none()
        now = _now(database, connection)
        if row is None:
            token = 1
            values = {"model": model, "token": token, "acquired_at": now, "lease_until": now + LEASE, **mine}
            try:
                connection.execute(sa.insert(FENCE).values(values))
            except IntegrityError as error:  # two first publishers at once, and there was no row to lock yet
                raise ConflictError(
                    f"another publisher of {model!r} was quicker", fix="wait for it to end, then run again"
                ) from error
        else:
            if row.lease_until is not None and row.lease_until > now and not _is_gone(row):
                raise ConflictError(
                    f"{model!r} is being published by {row.owner}",
                    got=f"process {row.pid} on {row.host.partition('/')[0]}, since {row.acquired_at:%Y-%m-%d %H:%M:%S} UTC, "
                    f"lease until {row.lease_until:%H:%M:%S}",
                    fix="wait for it to end, then run again; a dead publisher's lease ends by itself",
                )
            token = row.token + 1
            connection.execute(
                sa.update(FENCE)
                .where(FENCE.c.model == model)
                .values(token=token, acquired_at=now, lease_until=now + LEASE, **mine)
            )
            if row.lease_until is not None:
                _log.warning("fence taken over", model=model, previous_owner=row.owner, previous_pid=row.pid)
    return Fence(model, token, owner)


def check_fence(connection: sa.Connection, fence: Fence) -> None:
    """Refuse a write of a publisher that has lost the fence; holds the fence's row until the commit.

    Raises:
        ConflictError: If another publisher has taken it; names it.
    """
    row = connection.execute(
        sa.select(FENCE).where(FENCE.c.model == fence.model).with_for_update()
    ).one_or_none()
    if row is None or row.token != fence.token or row.lease_until is None:
        raise ConflictError(
            f"{fence.owner} has lost the right to publish {fence.model!r}",
            expected=f"fencing token {fence.token}",
            got="none" if row is None else f"token {row.token} of {row.owner}, process {row.pid}",
            fix="nothing served was harmed; run again when the other publisher is done",
        )


def renew_fence(database: Database, fence: Fence) -> None:
    """Extend the lease.

    Raises:
        ConflictError: If another publisher has taken it.
    """
    with database.write() as connection:
        check_fence(connection, fence)
        connection.execute(
            sa.update(FENCE)
            .where(FENCE.c.model == fence.model)
            .values(lease_until=_now(database, connection) + LEASE)
        )


def release_fence(database: Database, fence: Fence) -> None:
    """Let the next publisher in at once; nothing happens if the fence was lost meanwhile."""
    with database.write() as connection:
        connection.execute(
            sa.update(FENCE)
            .where(FENCE.c.model == fence.model, FENCE.c.token == fence.token)
            .values(lease_until=None)
        )


@contextmanager
def hold_fence(database: Database, model: str, owner: str) -> Iterator[Fence]:
    """Hold the fence for the time of a ``with`` block, renewing the lease from a thread.

    Errors of the database inside are explained, whoever uses it: Iceberg's catalog and Feast's registry are in it too.

    Raises:
        ConflictError: If another publisher holds it.
    """
    fence = acquire_fence(database, model, owner)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE.total_seconds() / 4):
            try:
                renew_fence(database, fence)
            except ConflictError:
                return  # the next write of the publisher says so
            except RetryableError as error:
                _log.warning("lease not renewed, will try again", model=model, error=str(error))

    thread = threading.Thread(target=renew, name="prescore-fence", daemon=True)
    thread.start()
    try:
        with database.explained():
            yield fence
    finally:
        ended.set()
        thread.join()
        # An unreachable database must not hide the error that ended the block; the lease ends by itself.
        with suppress(RetryableError):
            release_fence(database, fence)


def _now(database: Database, connection: sa.Connection) -> datetime:
    value = connection.execute(sa.select(database.now(connection))).scalar_one()
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if not isinstance(value, datetime):
        raise TypeError(type(value))
    return value.astimezone(UTC)


def _host() -> str:
    """This machine and process-id space: a process id means something only within one."""
    name = socket.gethostname()
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            path = Path(source)
            name += "/" + (
                str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii").strip()
            )
    return name


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot (proc(5), stat field 22); empty if it is no more."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in {"Z", "X"} else fields[19]
    return ""


def _is_gone(row: sa.Row[tuple[object, ...]]) -> bool:
    if row.host != _host():
        return False
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(row.pid_started) and _started(row.pid) != row.pid_started
