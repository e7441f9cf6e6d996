"""Alembic's entry: run the migrations on the connection that the catalogue opened and locked."""

from __future__ import annotations

from alembic import context

from materialize.generation.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
# No begin_transaction here: the caller's transaction holds the lock and commits.
context.run_migrations()
