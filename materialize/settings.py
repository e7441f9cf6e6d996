"""All settings as one tree: ``PRESCORE_`` variables over ``prescore.toml`` over defaults.

A variable names its section with two underscores: ``PRESCORE_STORE__URL``. The tree is built once,
in the command line, and passed down; nothing reads it at import.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from features.errors import SettingsError
from features.settings import (
    CandidateSettings,
    EventsSettings,
    FeatureSettings,
    ItemsSettings,
    Section,
    UsersSettings,
)
from materialize.training_settings import TrainingSettings, TuningSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_FILE = "prescore.toml"


class ScoringSettings(Section):
    """``[scoring]``: what is precomputed."""

    k: int = Field(100, ge=1, le=10_000, description="Length of a published list.")
    active_within_days: int = Field(
        90,
        ge=0,
        description="Precompute users with an event in this many days; 0: all. Others are scored on demand.",
    )
    users_per_block: int = Field(
        4096, ge=1, description="Users that are scored, written and retried together."
    )
    max_deltas: int = Field(
        24,
        ge=0,
        description="Delta generations in a row, which rescore only what changed, before a full one; 0: none.",
    )
    max_changed_users: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of users to be rescored by a delta; beyond it: a full one.",
    )
    reserve: int = Field(
        50,
        ge=0,
        description="Items beyond k that are kept per user, so that a delta can replace what drops out.",
    )


class GateSettings(Section):
    """``[gates]``: what a generation must satisfy before it is served."""

    min_user_coverage: float = Field(0.99, ge=0, le=1, description="Share of planned users that have a list.")
    max_score_shift: float = Field(
        0.5, ge=0, description="Distance of score distributions to the live generation."
    )
    max_churn: float = Field(
        0.95, ge=0, le=1, description="Mean share of a list that changed since the live one."
    )
    max_concentration: float = Field(
        0.9, ge=0, le=1, description="Share of all top-10 places of the 10 commonest items."
    )
    min_metric_ratio: float = Field(
        0.9, ge=0, description="NDCG@10 against the best baseline and the live model."
    )


class StoreSettings(Section):
    """``[store]``: Redis or Valkey."""

    url: SecretStr = Field(
        SecretStr("embedded"),
        description="'embedded', or redis://[user:password@]host:port[/db], rediss://…, unix://…",
    )
    connections: int = Field(2, ge=1, le=64, description="Pipelined connections per writing process.")
    timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for one reply.")


class CatalogueSettings(Section):
    """``[catalogue]``: the SQL database of models and generations."""

    url: SecretStr = Field(
        SecretStr("embedded"),
        description="'embedded' (SQLite), or postgresql+psycopg://user:password@host/database",
    )


class SqlCopySettings(Section):
    """``[sql_copy]``: a copy of the live generation in a PostgreSQL database of yours."""

    url: SecretStr = Field(SecretStr(""), description="Where each publication is copied to; empty: nowhere.")
    into: str = Field("prescore", min_length=1, max_length=63, description="Schema of its view.")


class ClusterSettings(Section):
    """``[cluster]``: where Dask runs."""

    kind: str = Field(
        "auto", description="'auto', 'local', 'cuda', or a scheduler's address, tcp://host:8786"
    )
    workers: int = Field(0, ge=0, description="Local worker processes; 0: one per core.")
    memory_per_worker: str = Field("1.5GB", description="Memory limit of a local worker.")


class RetentionSettings(Section):
    """``[retention]``: how long old things stay."""

    generations: int = Field(
        3, ge=2, description="Generations to keep, the live one and its predecessor included."
    )


class LookupSettings(Section):
    """``[lookup]``: the look-up service."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=256, description="Worker processes.")
    max_age_seconds: float = Field(0, ge=0, description="Older answers are marked stale; 0: never.")
    deadline_ms: float = Field(
        250, gt=0, description="Longest time to score a miss before the default list answers."
    )
    write_back_seconds: int = Field(
        300, ge=0, description="How long an on-demand answer is kept; 0: not at all."
    )
    concurrent_scorings: int = Field(2, ge=1, description="On-demand scorings at once, per worker.")
    stale: Literal["serve", "refresh", "score"] = Field(
        "serve",
        description="What to do with stale answers: serve them; serve them and score anew for the next request; "
        "or score on demand and serve them only if that fails.",
    )
    cache_seconds: int = Field(
        0,
        ge=0,
        description="How long caches may keep a precomputed list without asking whether it still holds; "
        "0: they always ask.",
    )
    parity_share: float = Field(
        0.001,
        ge=0,
        le=1,
        description="Share of requests whose list is scored again in the background and compared, at most one a second "
        "per worker; 0: none.",
    )
    seen_days: float = Field(
        0,
        ge=0,
        description="How long items that applications report as seen are left out of the user's lists, in days; "
        "0: reports are refused.",
    )
    traces: str = Field(
        "",
        description="Collector of OpenTelemetry traces by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; "
        "empty: none. Needs the extra 'tracing'.",
    )
    max_under_way: int = Field(
        1000, ge=1, description="Requests under way at once, per worker; more are refused with 503."
    )
    max_k: int = Field(1000, ge=1, description="Largest k of a request.")
    max_batch: int = Field(1000, ge=1, description="Most users in a batch request.")
    max_body_bytes: int = Field(1_000_000, ge=1, description="Largest request body.")
    api_keys: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="SHA-256, in hex, of each key that may ask; empty: anyone may, if anonymous access is on.",
    )
    anonymous: bool | None = Field(
        None,
        description="Serve without keys; unset: only on an address of this machine alone, such as 127.0.0.1.",
    )
    api_keys_file: str = Field(
        "",
        description="File with one such SHA-256 per line, followed within a second when it changes: keys come and go "
        "without a restart.",
    )
    tls_certificate: str = Field(
        "", description="PEM file with the certificate chain; set it to be asked by https."
    )
    tls_key: str = Field("", description="PEM file with its private key.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of its own for /metrics and /health, without keys; unset: /metrics is on the main port.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of that port.")


class Settings(BaseSettings):
    """The whole tree. Build it with :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="PRESCORE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file=SETTINGS_FILE,
    )

    project: str = Field("prescore", description="Feast project; part of every key in the store.")
    model: str = Field("recommendations", description="Name of the model and of its Feast feature service.")
    home: Path = Field(
        Path(".prescore"), description="Folder of everything that Prescore writes, beside prescore.toml."
    )
    warehouse: str = Field("", description="Folder of features, models and scored tables; empty: in home.")

    events: EventsSettings = EventsSettings()
    users: UsersSettings = UsersSettings()
    items: ItemsSettings = ItemsSettings()
    candidates: CandidateSettings = CandidateSettings()
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    tuning: TuningSettings = TuningSettings()
    scoring: ScoringSettings = ScoringSettings()
    gates: GateSettings = GateSettings()
    store: StoreSettings = StoreSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    sql_copy: SqlCopySettings = SqlCopySettings()
    cluster: ClusterSettings = ClusterSettings()
    retention: RetentionSettings = RetentionSettings()
    lookup: LookupSettings = LookupSettings()

    @field_validator("project", "model")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        # Feast and SQL identifiers, key suffixes and URL segments at once.
        if (
            not value
            or len(value) > 48
            or not value.replace("_", "a").isalnum()
            or not value.isascii()
            or value[0].isdigit()
        ):
            raise ValueError("use at most 48 letters, digits and underscores, not starting with a digit")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over the file over defaults; what a test passes in goes first."""
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def warehouse_path(self) -> Path:
        """Folder of features, models and scored tables."""
        return Path(self.warehouse) if self.warehouse else self.home / "warehouse"

    @property
    def features_path(self) -> Path:
        """Folder with one feature build per cut-off."""
        return self.warehouse_path / "features"

    @property
    def models_path(self) -> Path:
        """Folder with one model bundle per id."""
        return self.warehouse_path / "models"

    @property
    def generations_path(self) -> Path:
        """Folder with the look-up artifact of each generation."""
        return self.warehouse_path / "generations"

    @property
    def catalogue_url(self) -> str:
        """SQLAlchemy URL of the catalogue; also of the Iceberg catalog and the Feast registry."""
        url = self.catalogue.url.get_secret_value()
        return f"sqlite:///{self.home.absolute() / 'catalogue.db'}" if url == "embedded" else url


def load_settings(file: Path | None = None, **overrides: object) -> Settings:
    """Read ``prescore.toml`` (default: in the working folder) and the environment.

    Relative paths in the file are taken from the file's folder. A file that is named must exist; the
    default one may be missing.

    Raises:
        SettingsError: Naming the key, what it means, and what is wrong with it.
    """
    path = file or Path(SETTINGS_FILE)
    if file is not None and not path.is_file():
        raise SettingsError(
            f"no settings file {str(path)!r}", fix="run 'prescore init' in the folder of your tables"
        )

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        settings = FromFile(**overrides)  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML", got=str(error)) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not valid TOML", expected="text in UTF-8", got=str(error), fix="save it as UTF-8"
        ) from error
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from error
    folder = path.absolute().parent
    update: dict[str, object] = {"home": folder / settings.home}
    for section in ("events", "users", "items"):
        value = getattr(settings, section)
        if value.path:
            update[section] = value.model_copy(update={"path": str(folder / value.path)})
    if settings.features.custom:
        custom = str(folder / settings.features.custom)
        update["features"] = settings.features.model_copy(update={"custom": custom})
    if settings.warehouse and "://" not in settings.warehouse:
        update["warehouse"] = str(folder / settings.warehouse)
    # An instance of the plain class: equal settings compare equal, and travel to Dask workers.
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return Settings.model_construct(**(values | update))


def _explain(error: ValidationError, path: Path) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(_known_keys(problem["loc"])))
            lines.append(f"unknown key {key!r} (known here: {known})")
        else:
            meaning = describe(problem["loc"])
            # A url may hold a password, also where somebody wrote it in the place of its section.
            secret = "url" in problem["loc"] or problem["loc"] in {("store",), ("catalogue",), ("sql_copy",)}
            got = "" if secret else f", not {problem['input']!r}"
            if problem["type"] == "model_type":
                lines.append(f"{key}: should be a section, [{key}] with its settings below{got}")
                continue
            lines.append(f"{key}: {problem['msg']}{got}" + (f" ({meaning})" if meaning else ""))
    return f"{path} or a PRESCORE_ variable has {len(lines)} wrong setting(s): " + "; ".join(lines)


def _section(location: tuple[int | str, ...]) -> Mapping[str, object]:
    if len(location) > 1:
        field = Settings.model_fields.get(str(location[0]))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return dict(annotation.model_fields)
    return dict(Settings.model_fields)


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    return list(_section(location))


def describe(location: tuple[int | str, ...]) -> str:
    """The description of a setting, by its path; empty where there is none."""
    name = str(location[1] if len(location) > 1 else location[0])
    return str(getattr(_section(location).get(name), "description", None) or "")
