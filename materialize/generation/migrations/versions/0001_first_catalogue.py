"""Create models, generations, blocks, gate results, flips, erasures and the fence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "prescore_models",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(80), nullable=False, index=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("schema_hash", sa.String(64), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_table(
        "prescore_generations",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("model", sa.String(80), nullable=False, index=True),
        sa.Column("model_id", sa.String(80), sa.ForeignKey("prescore_models.id"), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("feature_cutoff", _TIME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("slot", sa.String(1), nullable=True),
        sa.Column("k", sa.Integer, nullable=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("published_at", _TIME, nullable=True),
    )
    # The database itself holds that one generation of a model is live, and that a slot holds one.
    for name, column, where in (
        ("prescore_one_live", ["model"], "state = 'live'"),
        ("prescore_one_per_slot", ["model", "slot"], "slot IS NOT NULL"),
    ):
        op.create_index(
            name,
            "prescore_generations",
            column,
            unique=True,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_table(
        "prescore_blocks",
        _generation_key(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("users", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("accepted", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "prescore_gate_results",
        _generation_key(),
        sa.Column("gate", sa.String(40), primary_key=True),
        sa.Column("measured", sa.Float, nullable=True),
        sa.Column("allowed", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("measured_at", _TIME, nullable=False),
    )
    op.create_table(
        "prescore_flips",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(80), nullable=False, index=True),
        sa.Column("generation", sa.String(80), nullable=False),
        sa.Column("previous", sa.String(80), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("flipped_at", _TIME, nullable=False),
        sa.Column("completed_at", _TIME, nullable=True),
    )
    op.create_table(
        "prescore_erasures",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_digest", sa.String(64), nullable=False, index=True),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("completed_at", _TIME, nullable=True),
        sa.Column("proof", sa.JSON, nullable=False),
    )
    op.create_table(
        "prescore_fence",
        sa.Column("model", sa.String(80), primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("pid_started", sa.String(40), nullable=False),
        sa.Column("acquired_at", _TIME, nullable=False),
        sa.Column("lease_until", _TIME, nullable=True),
    )


def _generation_key() -> sa.Column[str]:
    return sa.Column(
        "generation",
        sa.String(80),
        sa.ForeignKey("prescore_generations.id", ondelete="CASCADE"),
        primary_key=True,
    )


def downgrade() -> None:
    """Drop everything that :func:`upgrade` created."""
    for name in ("fence", "erasures", "flips", "gate_results", "blocks", "generations", "models"):
        op.drop_table(f"prescore_{name}")
