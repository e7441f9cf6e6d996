"""Turns a model that was trained elsewhere into a bundle: from a file, or from a live object.

Whatever it was, the bundle holds an XGBoost model with the same trees, so that scoring, publishing, the
look-up service, explanations and evaluation need to know one kind only. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xgboost

from features.errors import CallerError, NotFoundError, SchemaMismatchError, UnsupportedModelError
from features.feature_build import list_builds, name_of_cutoff
from features.schema import FeatureSchema
from materialize.generation.run import check_fit
from materialize.model_bundle import MODEL, SIZE_LIMITS, Lineage, ModelBundle
from materialize.models.foreign_trees import read_foreign
from materialize.models.registry import Registry
from materialize.models.xgboost_document import write_xgboost
from materialize.scoring import PairScorer
from materialize.scoring.model_reader import read_xgboost
from materialize.scoring.treelite_reader import read_treelite

if TYPE_CHECKING:
    from materialize.settings import Settings

_LARGEST_SCHEMA = 64 << 20
_ZERO_IS_MISSING = 0b0100
"""Bits 2 and 3 of LightGBM's ``decision_type`` say what is missing: nothing, zero (this one), or NaN."""

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def import_file(
    settings: Settings,
    file: Path,
    schema_file: Path,
    *,
    trained_before: datetime | None = None,
    exclude_seen: bool = False,
) -> ModelBundle:
    """Make a bundle of a model file, register it and make it the challenger.

    Args:
        settings: Where models are kept, and the name of the model.
        file: XGBoost (UBJSON or JSON), LightGBM (text) or Treelite (checkpoint); told apart by its contents.
        schema_file: JSON of the :class:`FeatureSchema` (``schema.json`` of any bundle, or ``FeatureSchema.to_json()``).
            Columns in the model's order; where the model has names, their order is the model's.
        trained_before: The model knows no event at or after this instant; ``None``: it may know all until now.
        exclude_seen: Whether lists leave out what the user already has.

    Raises:
        NotFoundError: If a file is not there.
        UnsupportedModelError: If the model is damaged, foreign, or cannot be scored exactly; it says why.
        SchemaMismatchError: If the schema is not the model's, or does not fit the newest features.
    """
    raw = _read(file, SIZE_LIMITS[MODEL])
    try:
        schema = FeatureSchema.from_json(_read(schema_file, _LARGEST_SCHEMA).decode())
    except UnicodeDecodeError as error:
        raise SchemaMismatchError(f"{schema_file} is not JSON", got=repr(error)) from error
    if raw[:1] == b"{":
        model, schema = _from_xgboost(raw, schema)
    elif raw[:5] in {b"tree\n", b"tree\r"}:
        schema = _in_order(schema, _lightgbm_names(raw))
        model = _from_trees(read_foreign("lightgbm", file), schema)
    elif raw.startswith(_PICKLES):
        raise UnsupportedModelError(
            f"{file} is a pickle or an archive, which is never opened: it could run any code",
            expected="XGBoost (.ubj, .json), LightGBM (.txt) or a Treelite checkpoint",
            fix="for scikit-learn: materialize.models.import_model.import_model(estimator, …) in Python, "
            "or treelite.sklearn.import_model(estimator).serialize(FILE)",
        )
    else:
        model = _from_trees(read_foreign("treelite", file), schema)
    return _keep(settings, model, schema, raw, trained_before, exclude_seen=exclude_seen)


def import_model(
    settings: Settings,
    model: Any,
    schema: FeatureSchema,
    *,
    trained_before: datetime | None = None,
    exclude_seen: bool = False,
) -> ModelBundle:
    """Make a bundle of a live model, register it and make it the challenger.

    Args:
        settings: Where models are kept, and the name of the model.
        model: An XGBoost or LightGBM booster or estimator, a ``treelite.Model``, or a scikit-learn forest or
            gradient boosting.
        schema: Its columns, in its order.
        trained_before: As in :func:`import_file`.
        exclude_seen: Whether lists leave out what the user already has.

    Raises:
        UnsupportedModelError, SchemaMismatchError: As in :func:`import_file`.
        CallerError: If Treelite is not installed and needed.
    """
    if hasattr(model, "get_booster"):
        model = model.get_booster()
    if isinstance(model, xgboost.Booster):
        raw, own = _from_xgboost(bytes(model.save_raw("ubj")), schema)
        return _keep(settings, raw, own, raw, trained_before, exclude_seen=exclude_seen)
    try:
        import treelite  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise CallerError(
            "importing this model needs Treelite", fix="pip install 'prescore[trees]'"
        ) from error
    try:
        trees = _as_treelite(treelite, model)
    except treelite.TreeliteError as error:
        raise UnsupportedModelError(
            f"a {type(model).__name__} cannot be read", got=str(error).splitlines()[0]
        ) from error
    text = _lightgbm_text(model)
    if text is not None:
        schema = _in_order(schema, _lightgbm_names(text))
    return _keep(
        settings,
        _from_trees(read_treelite(trees), schema),
        schema,
        text or bytes(trees.serialize_bytes()),
        trained_before,
        exclude_seen=exclude_seen,
    )


def _as_treelite(treelite: Any, model: Any) -> Any:
    if isinstance(model, treelite.Model):
        return model
    booster = getattr(model, "booster_", model)
    if hasattr(booster, "model_to_string"):
        return treelite.frontend.from_lightgbm(booster)
    if not hasattr(model, "get_params"):
        raise UnsupportedModelError(
            f"a {type(model).__name__} is no model that can be imported",
            expected="XGBoost, LightGBM, Treelite, or a scikit-learn estimator of trees",
        )
    return treelite.sklearn.import_model(model)


def _lightgbm_text(model: Any) -> bytes | None:
    booster = getattr(model, "booster_", model)
    return booster.model_to_string().encode() if hasattr(booster, "model_to_string") else None


def _read(file: Path, limit: int) -> bytes:
    if not file.is_file():
        raise NotFoundError(f"no file {str(file)!r}")
    if file.stat().st_size > limit:
        raise UnsupportedModelError(
            f"{file} is too large", expected=f"at most {limit} bytes", got=f"{file.stat().st_size} bytes"
        )
    return file.read_bytes()


def _from_xgboost(raw: bytes, schema: FeatureSchema) -> tuple[bytes, FeatureSchema]:
    """A model of the same trees up to the best iteration, and the schema in the model's order.

    XGBoost itself never sees the file: a damaged one can end the process.
    """
    forest = read_xgboost(raw)
    schema = PairScorer.from_forest(forest, schema).schema
    return write_xgboost(forest, schema), schema


def _from_trees(forest: Any, schema: FeatureSchema) -> bytes:
    return write_xgboost(forest, PairScorer.from_forest(forest, schema).schema)


def _lightgbm_names(raw: bytes) -> list[str]:
    """The features' names; empty if LightGBM made them up.

    Raises:
        UnsupportedModelError: If it is cut off, or zeros are missing values: other readers of the format pass over both.
    """
    text = raw.decode(errors="replace")
    if "\nend of trees\n" not in text.replace("\r\n", "\n"):
        raise UnsupportedModelError("the LightGBM model is cut off", expected="a line 'end of trees'")
    for line in re.findall(r"^decision_type=(.*)$", text, re.MULTILINE):
        if any(int(kind) & 0b1100 == _ZERO_IS_MISSING for kind in line.split() if kind.isdigit()):
            raise UnsupportedModelError(
                "the LightGBM model takes zeros for missing values",
                fix="train it without zero_as_missing, and give missing values as NaN",
            )
    found = re.search(r"^feature_names=(.*)$", text, re.MULTILINE)
    names = found[1].split() if found else []
    return [] if all(re.fullmatch(r"Column_\d+", name) for name in names) else names


def _in_order(schema: FeatureSchema, names: list[str]) -> FeatureSchema:
    """The schema in the order of the model's names, where it has any."""
    if not names:
        return schema
    by_name = {column.name: column for column in schema.columns}
    if set(names) != set(by_name):
        missing, extra = sorted(set(names) - set(by_name)), sorted(set(by_name) - set(names))
        raise SchemaMismatchError(
            "the schema's features are not the model's",
            expected=", ".join(missing[:5]) or "nothing else",
            got=", ".join(extra[:5]) or "nothing for them",
        )
    return FeatureSchema(tuple(by_name[name] for name in names), schema.user_id_type, schema.item_id_type)


def _keep(
    settings: Settings,
    model: bytes,
    schema: FeatureSchema,
    source: bytes,
    trained_before: datetime | None,
    *,
    exclude_seen: bool,
) -> ModelBundle:
    content: dict[str, Any] = {
        "name": settings.model,
        "model": model,
        "schema": schema,
        "metrics": {},
        "exclude_seen": exclude_seen,
        "lineage": Lineage.of_now(
            cutoff=name_of_cutoff(trained_before) if trained_before else "",
            created_at=datetime.now(UTC),
            parameters={"imported": hashlib.sha256(source).hexdigest()},
        ),
    }
    builds = list_builds(settings.features_path) if settings.features_path.is_dir() else []
    if builds:
        newest = max(builds, key=lambda build: build.path.stat().st_mtime)
        with tempfile.TemporaryDirectory(prefix="prescore-import-") as aside:
            check_fit(newest, ModelBundle.save(Path(aside), **content))
    bundle = ModelBundle.save(settings.models_path, **content)
    registry = Registry.open(settings)
    registry.register(bundle)
    registry.challenge(bundle.id)
    return bundle
