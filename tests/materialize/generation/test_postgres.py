"""The whole publication on PostgreSQL: catalogue, Iceberg catalog and Feast registry in one database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import SecretStr

from materialize.generation.flip import rollback
from materialize.generation.tables import VERSION_TABLE
from materialize.progress import NoProgress
from materialize.publish.sql import read

if TYPE_CHECKING:
    from distributed import Client

    from tests.materialize.generation.shop_models import World


def test_a_publication_and_its_undo(world: World, client: Client, postgres_url: str) -> None:
    embedded = world.publish(client)
    lists = world.served()
    world.store.flushall()
    database = world.settings.catalogue.model_copy(update={"url": SecretStr(postgres_url)})
    home = world.settings.home / "on_postgres"
    settings = world.settings.model_copy(update={"catalogue": database, "warehouse": str(home)})
    home.mkdir()
    for name in ("features", "models"):
        (home / name).symlink_to(world.settings.warehouse_path / name)
    other = replace(world, settings=settings)
    first = other.publish(client)
    assert first.id == embedded.id
    assert other.served() == lists
    other.publish(client, seed=2)
    assert rollback(settings, other.catalogue, NoProgress()).id == first.id
    assert other.served() == lists
    assert read("select count(*) as n from recommendations", settings, first.id)["n"].to_pylist() == [
        first.rows
    ]
    engine = sa.create_engine(postgres_url)
    names = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    assert {VERSION_TABLE, "prescore_generations", "iceberg_tables", "feature_views"} <= names
