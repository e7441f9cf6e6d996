"""Opens the catalogue's database: connection rules per dialect, migration to head, errors without secrets."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, exc
from sqlalchemy.pool import NullPool

from features.errors import SettingsError, StorageError
from materialize.generation.tables import VERSION_TABLE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sqlalchemy.pool import ConnectionPoolEntry

_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
_MIGRATION_LOCK_KEY = 0x7052_6553_636F_7265  # "pReScore": an advisory lock is a 64-bit number
# Alembic keeps the running migration in module globals, so two threads of a process must take turns.
_MIGRATING = threading.Lock()


class Database:
    """A migrated database; every use of it goes through :meth:`read` or :meth:`write`.

    Connections are not pooled: a publisher makes a few per second, a restarted PostgreSQL or a forked
    worker then needs no care, and SQLite's file is not held open.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @property
    def url(self) -> str:
        """Address without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is the embedded database."""
        return self._engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect, and migrate to the newest schema.

        Any number of processes may open at once: one migrates, the others wait for it.

        Raises:
            SettingsError: If the URL is none, or names a database that is not supported.
            StorageError: If the database cannot be reached, or its schema is newer than this release.
        """
        database = cls(_create_engine(url))
        database._migrate()
        return database

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that reads one consistent state."""
        with self.explained(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes; commits at the end, rolls back on any error.

        On SQLite it takes the write lock at its start: one that upgraded from reading to writing could
        fail at once, whatever the busy timeout.
        """
        with self.explained(), self._engine.execution_options(prescore_writes=True).begin() as connection:
            yield connection

    def now(self, connection: sa.Connection) -> sa.ColumnElement[object]:
        """SQL expression of the database's own clock, the one that all hosts share."""
        del connection
        return sa.func.strftime("%Y-%m-%d %H:%M:%f", "now") if self.is_sqlite else sa.func.clock_timestamp()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what SQLAlchemy raises inside of a database that cannot be used into an error that says so.

        Raises:
            SettingsError: If there is no driver for the database.
            StorageError: If it cannot be reached, is full, or went away.
        """
        try:
            yield
        except exc.NoSuchModuleError as error:
            raise _unsupported(self.url) from error
        except (exc.IntegrityError, exc.ProgrammingError, exc.DataError):
            raise  # a fault of this code, or a race that the caller knows of
        except (exc.DatabaseError, exc.InterfaceError, exc.TimeoutError) as error:
            raise StorageError(
                "the catalogue database cannot be used",
                expected=f"a database at {self.url}",
                got=_first_line(error),
                fix="check that it runs, that PRESCORE_CATALOGUE__URL is right and the disk has space; then run again",
            ) from error

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        with self.read() as connection:
            if _revision(connection) == head:
                return
        with _MIGRATING, self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK_KEY)))
            revision = _revision(connection)
            if revision == head:
                return
            if revision is not None and revision not in {r.revision for r in script.walk_revisions()}:
                raise StorageError(
                    "the catalogue was written by a newer Prescore",
                    expected=f"schema {head} or older",
                    got=f"schema {revision}",
                    fix="upgrade Prescore on this machine",
                )
            config.attributes["connection"] = connection
            with EnvironmentContext(config, script, fn=lambda rev, _: script._upgrade_revs("head", rev)):  # noqa: SLF001 - as alembic.command.upgrade does
                script.run_env()


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def _create_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        arguments: dict[str, object] = {}
        if parsed.get_backend_name() == "sqlite":
            arguments["timeout"] = _BUSY_SECONDS
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        elif parsed.get_backend_name() == "postgresql":
            if "connect_timeout" not in parsed.query:
                arguments["connect_timeout"] = _CONNECT_SECONDS
        else:
            raise _unsupported(parsed.render_as_string(hide_password=True))
        engine = sa.create_engine(parsed, poolclass=NullPool, connect_args=arguments)
    except exc.ArgumentError:
        # Without the cause: its text may hold the password.
        raise SettingsError(
            "the catalogue's URL cannot be read",
            expected="'embedded', sqlite:///FILE, or postgresql+psycopg://user:password@host/database",
            fix="mend PRESCORE_CATALOGUE__URL or [catalogue] url",
        ) from None
    except exc.NoSuchModuleError as error:
        raise _unsupported(sa.make_url(url).render_as_string(hide_password=True)) from error
    except OSError as error:
        raise StorageError("the catalogue's folder cannot be made", got=str(error)) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _unsupported(url: str) -> SettingsError:
    return SettingsError(
        "this database is not supported as catalogue",
        expected="sqlite:///FILE or postgresql+psycopg://…",
        got=url,
    )


def _prepare_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions of its own: _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # Readers (the scored tables' catalog, Feast's registry, a status command) then never wait for a
    # writer. The mode is kept in the file; changing it is refused while another connection is in use,
    # and then simply left to a later opening.
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        except Exception as error:
            if "locked" not in str(error):
                raise
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("prescore_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _first_line(error: BaseException) -> str:
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
