"""The catalogue's record of erasures: which were begun, which are complete, and whose id must not come back.

Of an erased user it keeps a salted digest, never the id: enough to recognize the user in tables that still
list them, and to take up an erasure that a crash has cut short. Whoever can read the catalogue can test
whether a given id was erased; nobody can list those that were.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from materialize.generation.database import Database
from materialize.generation.tables import BLOCKS, ERASURES, GENERATIONS, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from materialize.settings import Settings

_SALT_BYTES = 16


@dataclass(frozen=True)
class Erasure:
    """One request to erase a user.

    Attributes:
        id: Number of the record.
        digest: Salted digest of the user's id, 64 hex digits.
        requested_at: When it was begun, UTC.
        completed_at: When nothing was found any more, UTC; ``None``: begun.
        proof: What was searched: rows of :class:`materialize.generation.erasure_search.Searched`, as mappings.
    """

    id: int
    digest: str
    requested_at: datetime
    completed_at: datetime | None
    proof: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class ErasedUsers:
    """Recognizes users by their digests."""

    salt: bytes
    digests: frozenset[str]

    def among(self, ids: Iterable[int | str]) -> list[int | str]:
        """Those of the ids that are of erased users, in their order."""
        if not self.digests:
            return []
        return [user for user in ids if digest_of(self.salt, user) in self.digests]


class ErasureLog:
    """Reads and writes the records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def of(cls, settings: Settings) -> ErasureLog:
        """The records of the catalogue that the settings name.

        Raises:
            StorageError: If it cannot be reached.
        """
        return cls(Database.open(settings.catalogue_url))

    def begin(self, user: str) -> Erasure:
        """Record that a user is to be erased; an erasure of theirs that is not complete is taken up."""
        with self._database.write() as connection:
            salt = _salt(connection) or secrets.token_bytes(_SALT_BYTES)
            digest = digest_of(salt, user)
            row = connection.execute(
                sa.select(ERASURES).where(ERASURES.c.user_digest == digest, ERASURES.c.completed_at.is_(None))
            ).first()
            if row is None:
                values = {
                    "user_digest": digest,
                    "requested_at": datetime.now(UTC),
                    "completed_at": None,
                    "proof": {"salt": salt.hex(), "searched": []},
                }
                number = connection.execute(
                    sa.insert(ERASURES).values(values).returning(ERASURES.c.id)
                ).scalar_one()
                row = connection.execute(sa.select(ERASURES).where(ERASURES.c.id == number)).one()
            return _erasure(row)

    def complete(self, erasure: Erasure, searched: Sequence[Mapping[str, object]]) -> None:
        """Record that nothing of the user was found any more, and where that was looked for."""
        with self._database.write() as connection:
            salt = _salt(connection) or b""
            connection.execute(
                sa.update(ERASURES)
                .where(ERASURES.c.id == erasure.id)
                .values(
                    completed_at=datetime.now(UTC), proof={"salt": salt.hex(), "searched": list(searched)}
                )
            )

    def readmit(self, user: str) -> int:
        """Forget that a user was erased, so that tables that list them count again; the records that went."""
        with self._database.write() as connection:
            salt = _salt(connection)
            if salt is None:
                return 0
            gone = connection.execute(
                sa.delete(ERASURES).where(
                    ERASURES.c.user_digest == digest_of(salt, user), ERASURES.c.completed_at.is_not(None)
                )
            )
            return int(gone.rowcount)

    def all(self) -> list[Erasure]:
        """All records, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(ERASURES).order_by(ERASURES.c.id))
            return [_erasure(row) for row in rows]

    def erased(self, *, unfinished: bool = False) -> ErasedUsers:
        """Recognizes every user on record, or only those whose erasure is not complete."""
        with self._database.read() as connection:
            salt = _salt(connection)
            rows = connection.execute(sa.select(ERASURES.c.user_digest, ERASURES.c.completed_at))
            digests = frozenset(r.user_digest for r in rows if r.completed_at is None or not unfinished)
        return ErasedUsers(salt or b"", digests)

    def models(self) -> list[str]:
        """Names of all models that have bundles or generations, sorted: a user is in every one's lists."""
        with self._database.read() as connection:
            names = sa.union(sa.select(MODELS.c.name), sa.select(GENERATIONS.c.model))
            return sorted(connection.execute(names).scalars())

    def recount(self, generation: str) -> None:
        """Make a generation's number of rows that of its blocks, which have lost some."""
        rows = sa.select(sa.func.coalesce(sa.func.sum(BLOCKS.c.rows), 0)).where(
            BLOCKS.c.generation == generation
        )
        with self._database.write() as connection:
            connection.execute(
                sa.update(GENERATIONS)
                .where(GENERATIONS.c.id == generation, GENERATIONS.c.rows > 0)
                .values(rows=rows.scalar_subquery())
            )


def digest_of(salt: bytes, user: int | str) -> str:
    """BLAKE2b of an id's decimal digits or text, keyed by the salt: 64 hex digits."""
    return hashlib.blake2b(str(user).encode(), key=salt, digest_size=32).hexdigest()


def _salt(connection: sa.Connection) -> bytes | None:
    """One salt for all, so that a table of users is hashed once however many were erased: the oldest record's."""
    proof = connection.execute(sa.select(ERASURES.c.proof).order_by(ERASURES.c.id).limit(1)).scalar()
    return None if proof is None else bytes.fromhex(proof["salt"])


def _erasure(row: sa.Row[tuple[object, ...]]) -> Erasure:
    return Erasure(
        row.id, row.user_digest, row.requested_at, row.completed_at, tuple(row.proof.get("searched", ()))
    )
