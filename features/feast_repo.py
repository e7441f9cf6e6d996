"""Keeps the Feast repository: its ``feature_store.yaml``, what is registered, and the service that names the live slot.

The repository has a folder of its own below home, because ``feast apply`` imports every Python file below
the one it is run in. The registry is SQL, in the catalogue's database: clients follow a flip within
``CACHE_SECONDS``, and no reader meets a half-written file.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from features.errors import NotFoundError, SettingsError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore
    from pydantic import SecretStr

    from features.schema import FeatureSchema

CACHE_SECONDS = 2
"""How long a Feast client goes on with what it knows of the registry."""


class StoreSection(Protocol):
    """The part of ``[store]`` that Feast needs."""

    @property
    def url(self) -> SecretStr:
        """Address of Redis or Valkey."""


class FeastSettings(Protocol):
    """What the repository needs of the settings; the whole settings tree satisfies it."""

    @property
    def project(self) -> str:
        """Feast project."""

    @property
    def model(self) -> str:
        """Name of the model and of its feature service."""

    @property
    def home(self) -> Path:
        """Folder of everything that Prescore writes."""

    @property
    def features_path(self) -> Path:
        """Folder with one feature build per cut-off."""

    @property
    def catalogue_url(self) -> str:
        """SQLAlchemy URL of the registry."""

    @property
    def store(self) -> StoreSection:
        """The key-value store."""


def repo_path(settings: FeastSettings) -> Path:
    """Folder of the Feast repository: ``feast --chdir`` and ``FeatureStore(repo_path=…)`` take it."""
    return settings.home / "feast"


def apply_feature_repo(settings: FeastSettings, schema: FeatureSchema) -> None:
    """Write ``feature_store.yaml`` and register entities and views; those of features that are no more are removed.

    Views of other models, and views that are not Prescore's, stay. Doing it again is harmless. The feature service is made by :func:`point_service_at`.

    Args:
        settings: Project, model, places; ``store.url`` must be an address.
        schema: Schema of the newest feature build.

    Raises:
        SettingsError: If the store's address cannot be put into Feast's form, or two fields collide.
        StorageError: If the registry's database cannot be used.
    """
    from features import feast_views as views_of  # noqa: PLC0415 - takes seconds

    folder = repo_path(settings)
    absent = folder / "online_only"
    listed = [
        *views_of.online_list_views(schema, absent),
        *views_of.prediction_views(schema, settings.model, absent),
    ]
    views = [*views_of.offline_views(schema, settings.features_path), *listed]
    views_of.check_collisions(views)
    with open_feature_store(settings) as store:
        store.apply([*views_of.entities_of(schema).values(), *views])
        _unregister_others(store, {view.name for view in views}, (settings.features_path, absent))


def _unregister_others(store: FeatureStore, kept: set[str], folders: tuple[Path, ...]) -> None:
    """Remove feature views over our own files that this repository no longer defines: of a group that was taken out."""
    for view in store.list_feature_views():
        path = Path(getattr(view.batch_source, "path", ""))
        is_slot = {"scores", "generation"} <= {field.name for field in view.features}
        if view.name not in kept and not is_slot and any(path.is_relative_to(folder) for folder in folders):
            store.delete_feature_view(view.name)


def point_service_at(settings: FeastSettings, view: str) -> None:
    """Let the feature service ``<model>`` name a prediction view: the flip, for Feast clients. No row is touched.

    Raises:
        NotFoundError: If the view is not registered.
        StorageError: If the registry's database cannot be used.
    """
    from feast import FeatureService  # noqa: PLC0415 - takes seconds
    from feast.errors import FeatureViewNotFoundException  # noqa: PLC0415 - takes seconds

    with open_feature_store(settings) as store:
        try:
            live = store.get_feature_view(view)
        except FeatureViewNotFoundException as error:
            raise NotFoundError(
                f"Feast knows no view {view!r}", fix="run 'prescore features materialize', which registers it"
            ) from error
        store.apply([FeatureService(name=settings.model, features=[live])])


@contextmanager
def open_feature_store(settings: FeastSettings) -> Iterator[FeatureStore]:
    """Open Feast on an up-to-date ``feature_store.yaml``; its database connections are closed afterwards.

    Raises:
        StorageError: If the registry's database cannot be used, also in the ``with`` block.
    """
    from feast import FeatureStore  # noqa: PLC0415 - takes seconds
    from sqlalchemy import make_url  # noqa: PLC0415 - comes with Feast
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - comes with Feast

    folder = repo_path(settings)
    write_repo(settings)
    try:
        store = FeatureStore(repo_path=str(folder))
        try:
            yield store
        finally:
            close_store(store)
    except SQLAlchemyError as error:
        raise StorageError(
            "Feast's registry cannot be used",
            expected=f"a database at {make_url(settings.catalogue_url).render_as_string()}",
            got=str(getattr(error, "orig", None) or error).partition("\n")[0],
            fix="check that it runs, that PRESCORE_CATALOGUE__URL is right and the disk has space; then run again",
        ) from error


def close_store(store: FeatureStore) -> None:
    """Close what Feast itself leaves open: the connections to the registry's database."""
    for name in ("write_engine", "read_engine"):
        engine = getattr(store.registry, name, None)
        if engine is not None:
            engine.dispose()


def write_repo(settings: FeastSettings) -> Path:
    """Write ``feature_store.yaml``, readable by its owner alone since addresses hold passwords; returns its path."""
    folder = repo_path(settings)
    folder.mkdir(parents=True, exist_ok=True)
    registry: dict[str, Any] = {
        "registry_type": "sql",
        "path": settings.catalogue_url,
        "cache_ttl_seconds": CACHE_SECONDS,
    }
    if settings.catalogue_url.startswith("sqlite"):
        registry["sqlalchemy_config_kwargs"] = {"connect_args": {"timeout": 30}}
    document = {
        "project": settings.project,
        "provider": "local",
        "registry": registry,
        "offline_store": {"type": "duckdb"},
        "online_store": online_store_config(settings.store.url.get_secret_value()),
        "entity_key_serialization_version": 3,
    }
    text = "# Written by Prescore from prescore.toml; changes made here are lost.\n" + yaml.safe_dump(
        document, sort_keys=False
    )
    path = folder / "feature_store.yaml"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        descriptor, aside = tempfile.mkstemp(prefix=".feature_store-", dir=folder)  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).replace(path)
    return path


def online_store_config(url: str) -> dict[str, Any]:
    """Feast's ``online_store`` for a store's URL.

    ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://`` and ``redis+cluster://`` (with
    ``rediss+`` for TLS) with options after ``?``, as the loader takes them.

    Raises:
        SettingsError: If the URL is none of these, or a value holds a comma, which Feast cannot be told.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss", "unix"} or kind not in {"", "sentinel", "cluster"}:
        raise SettingsError(
            "Feast cannot use the store's URL",
            expected="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
            got=f"{parts.scheme or url}://" if parts.scheme else url,
            fix="set store.url, or let the command that needs it start the embedded store",
        )
    options: dict[str, object] = dict(parse_qsl(parts.query))
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    if scheme == "rediss":
        options["ssl"] = True
    config: dict[str, Any] = {"type": "redis"}
    path = unquote(parts.path).strip("/")
    if scheme == "unix":
        hosts = "localhost:0"
        options["unix_socket_path"] = unquote(parts.path)
    elif kind == "sentinel":
        config |= {"redis_type": "redis_sentinel", "sentinel_master": path}
    elif kind == "cluster":
        config["redis_type"] = "redis_cluster"
    elif path:
        options["db"] = int(path)
    default = 26379 if kind == "sentinel" else 6379
    nodes = [host if ":" in host else f"{host}:{default}" for host in hosts.split(",")]
    if any("," in str(value) for value in options.values()):
        raise SettingsError(
            "Feast cannot use the store's URL",
            expected="a password and options without commas",
            fix="choose another password",
        )
    # Feast reads each value as JSON where it can: in quotes, a password of digits stays text.
    settings = [f"{name}={json.dumps(value)}" for name, value in options.items()]
    config["connection_string"] = ",".join([*nodes, *settings])
    return config
