"""Let a generation enter the live one's slot in place, and count what a delta did with each block."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COUNTS = ("lists", "gone", "rescored", "merged")


def upgrade() -> None:
    """Add the columns; all generations so far are full ones."""
    op.add_column("prescore_generations", sa.Column("entering", sa.String(1), nullable=True))
    for name in _COUNTS:
        op.add_column("prescore_blocks", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE prescore_blocks SET lists = users, rescored = users")


def downgrade() -> None:
    """Drop the columns."""
    for name in _COUNTS:
        op.drop_column("prescore_blocks", name)
    op.drop_column("prescore_generations", "entering")
