"""The catalogue's SQL tables; the migrations create them, this module only names them.

All carry the prefix ``prescore_``: the database is shared with PyIceberg's catalog and Feast's registry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

VERSION_TABLE = "prescore_alembic_version"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware UTC in Python, also from SQLite, which stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without zone; store UTC."""
        del dialect
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without zone cannot be stored: {value!r}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = MetaData()

MODELS = Table(
    "prescore_models",
    METADATA,
    Column("id", String(80), primary_key=True),
    Column("name", String(80), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("schema_hash", String(64), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

GENERATIONS = Table(
    "prescore_generations",
    METADATA,
    Column("id", String(80), primary_key=True),
    Column("model", String(80), nullable=False, index=True),
    Column("model_id", String(80), ForeignKey("prescore_models.id"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("parent", String(80), nullable=False),
    Column("feature_cutoff", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("slot", String(1), nullable=True),
    Column("entering", String(1), nullable=True),
    Column("k", Integer, nullable=False),
    Column("users", BigInteger, nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("published_at", UtcDateTime, nullable=True),
)

BLOCKS = Table(
    "prescore_blocks",
    METADATA,
    Column(
        "generation", String(80), ForeignKey("prescore_generations.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("users", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("accepted", BigInteger, nullable=True),
    Column("lists", BigInteger, nullable=False),
    Column("gone", BigInteger, nullable=False),
    Column("rescored", BigInteger, nullable=False),
    Column("merged", BigInteger, nullable=False),
)

GATE_RESULTS = Table(
    "prescore_gate_results",
    METADATA,
    Column(
        "generation", String(80), ForeignKey("prescore_generations.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("gate", String(40), primary_key=True),
    Column("measured", Float, nullable=True),
    Column("allowed", String(200), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("measured_at", UtcDateTime, nullable=False),
)

FLIPS = Table(
    "prescore_flips",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(80), nullable=False, index=True),
    Column("generation", String(80), nullable=False),
    Column("previous", String(80), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("flipped_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime, nullable=True),
)

ERASURES = Table(
    "prescore_erasures",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # Not the user's id: a record of an erasure must not keep what was erased.
    Column("user_digest", String(64), nullable=False, index=True),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime, nullable=True),
    Column("proof", JSON, nullable=False),
)

FENCE = Table(
    "prescore_fence",
    METADATA,
    Column("model", String(80), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("pid_started", String(40), nullable=False),
    Column("acquired_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime, nullable=True),
)
