"""The catalogue's SQL tables of models beside :data:`materialize.generation.tables.MODELS`; the migrations create them."""

from __future__ import annotations

from sqlalchemy import JSON, Column, ForeignKey, Integer, String, Table, Text

from materialize.generation.tables import METADATA, UtcDateTime

LINEAGE = Table(
    "prescore_model_lineage",
    METADATA,
    Column("model_id", String(80), ForeignKey("prescore_models.id"), primary_key=True),
    Column("lineage", JSON, nullable=False),
)

RETIREMENTS = Table(
    "prescore_model_retirements",
    METADATA,
    Column("model_id", String(80), ForeignKey("prescore_models.id"), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("retired_at", UtcDateTime, nullable=False),
)

ALIASES = Table(
    "prescore_model_aliases",
    METADATA,
    Column("name", String(80), primary_key=True),
    Column("alias", String(16), primary_key=True),
    Column("model_id", String(80), ForeignKey("prescore_models.id"), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

PROMOTIONS = Table(
    "prescore_promotions",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(80), nullable=False, index=True),
    Column("model_id", String(80), nullable=False),
    Column("previous", String(80), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("gates", JSON, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
)
