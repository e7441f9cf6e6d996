"""Create what is known of models beside their bundles: lineage, retirement, aliases, promotions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables; models that are there already have no lineage and no alias."""
    op.create_table(
        "prescore_model_lineage",
        sa.Column("model_id", sa.String(80), sa.ForeignKey("prescore_models.id"), primary_key=True),
        sa.Column("lineage", sa.JSON, nullable=False),
    )
    op.create_table(
        "prescore_model_retirements",
        sa.Column("model_id", sa.String(80), sa.ForeignKey("prescore_models.id"), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("retired_at", _TIME, nullable=False),
    )
    op.create_table(
        "prescore_model_aliases",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("alias", sa.String(16), primary_key=True),
        sa.Column("model_id", sa.String(80), sa.ForeignKey("prescore_models.id"), nullable=False),
        sa.Column("set_at", _TIME, nullable=False),
    )
    op.create_table(
        "prescore_promotions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(80), nullable=False, index=True),
        sa.Column("model_id", sa.String(80), nullable=False),
        sa.Column("previous", sa.String(80), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("gates", sa.JSON, nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("promotions", "model_aliases", "model_retirements", "model_lineage"):
        op.drop_table(f"prescore_{name}")
