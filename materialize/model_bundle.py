"""A model as an artifact: a folder of four files whose id derives from their contents, verified on load.

::

    models/<id>/
    ├── model.ubj       the booster, XGBoost's UBJSON (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html)
    ├── schema.json     its columns in booster order: features.schema.FeatureSchema
    ├── metrics.json    what evaluation measured, per method
    └── manifest.json   name, id, exclude_seen, lineage, size and SHA-256 of the other three, and of itself

Nothing is ever unpickled. The id leaves out what differs between two runs of the same training (times,
library versions, metrics), so the same data, settings and cluster shape give the same id. Importing this
module imports neither XGBoost nor Dask.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003  # pydantic reads the annotation
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.errors import (
    CallerError,
    NotFoundError,
    SchemaMismatchError,
    StorageError,
    UnsupportedModelError,
)
from features.schema import FeatureSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""Layout of the folder; a bundle of a newer layout is refused."""

MODEL, SCHEMA, METRICS, MANIFEST = "model.ubj", "schema.json", "metrics.json", "manifest.json"

SIZE_LIMITS = {MODEL: 2 << 30, SCHEMA: 64 << 20, METRICS: 16 << 20, MANIFEST: 4 << 20}
"""Largest size of each file in bytes: what is larger is refused before it is read."""

LIBRARIES = ("xgboost-cpu", "xgboost", "dask", "numpy", "pyarrow", "feast", "duckdb", "ibis-framework")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lineage(_Part):
    """Where a model comes from.

    Attributes:
        cutoff: Name of the cut-off it was trained up to, such as ``20180101T000000Z``; empty for an imported model of
            which nobody has said it.
        feature_builds: Fingerprint of each feature build it was trained on, by the build's cut-off name.
        data: Fingerprint of the source tables, by table.
        parameters: Settings and choices that shaped it, seed and cluster shape included.
        code_version: Version of Prescore.
        libraries: Version by distribution name.
        created_at: When, UTC.
    """

    cutoff: str
    feature_builds: dict[str, str] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    code_version: str = ""
    libraries: dict[str, str] = Field(default_factory=dict)
    created_at: datetime

    @classmethod
    def of_now(cls, *, cutoff: str, created_at: datetime, **known: Any) -> Lineage:
        """Lineage with this environment's versions filled in."""
        return cls(
            cutoff=cutoff,
            created_at=created_at,
            code_version=_version("prescore"),
            libraries={name: v for name in LIBRARIES if (v := _version(name))},
            **known,
        )

    def stable(self) -> dict[str, Any]:
        """What two runs of the same training share."""
        return self.model_dump(include={"cutoff", "feature_builds", "data", "parameters"})


class _File(_Part):
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Manifest(_Part):
    format: Literal[1]
    name: str
    id: str = Field(pattern="^[0-9a-f]{16}$")
    exclude_seen: bool
    lineage: Lineage
    files: dict[str, _File]
    seal: str = ""

    def sealed(self) -> _Manifest:
        """The manifest with the SHA-256 of all else in it: the id leaves out times, versions and metrics."""
        digest = hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()
        return self.model_copy(update={"seal": digest})

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        return self.model_dump_json(indent=1).encode()


@dataclass(frozen=True)
class ModelBundle:
    """A verified bundle on disk. Make one with :meth:`save` or :meth:`load`.

    Attributes:
        path: Its folder.
        name: The model's name, ``settings.model``.
        id: 16 hex digits, derived from the contents.
        schema: The columns in booster order.
        metrics: What evaluation measured: JSON values.
        exclude_seen: Whether lists leave out what the user already has.
        lineage: Where it comes from.
    """

    path: Path
    name: str
    id: str
    schema: FeatureSchema
    metrics: Mapping[str, Any] = field(hash=False)
    exclude_seen: bool
    lineage: Lineage = field(hash=False)

    @cached_property
    def model_bytes(self) -> bytes:
        """The booster's UBJSON: ``xgboost.Booster(model_file=bytearray(bundle.model_bytes))``."""
        return (self.path / MODEL).read_bytes()

    def booster(self) -> Any:
        """The ``xgboost.Booster``, with the schema's feature names and types.

        Raises:
            UnsupportedModelError: If XGBoost cannot read it.
            SchemaMismatchError: If its features are not the schema's.
        """
        import xgboost  # noqa: PLC0415  # the look-up service reads bundles without it

        try:
            booster = xgboost.Booster(model_file=bytearray(self.model_bytes))
        except xgboost.core.XGBoostError as error:
            raise UnsupportedModelError(
                f"XGBoost cannot read {self.path / MODEL}", got=str(error).splitlines()[0]
            ) from error
        if booster.feature_names != self.schema.names:
            raise SchemaMismatchError(
                f"model {self.id}: the booster's features are not the schema's",
                expected=", ".join(self.schema.names[:5]) + ", …",
                got=", ".join((booster.feature_names or ["no names"])[:5]) + ", …",
            )
        return booster

    @classmethod
    def save(
        cls,
        root: Path,
        *,
        name: str,
        model: bytes,
        schema: FeatureSchema,
        metrics: Mapping[str, Any],
        exclude_seen: bool,
        lineage: Lineage,
    ) -> ModelBundle:
        """Write a bundle below ``root``, aside first and renamed into place; a bundle of the same id is kept.

        Args:
            root: The folder of models, ``settings.models_path``.
            name: The model's name.
            model: UBJSON of the booster, ``booster.save_raw("ubj")``.
            schema: Its columns in booster order.
            metrics: JSON values; NaN is not one.
            exclude_seen: Whether lists leave out what the user already has.
            lineage: Where it comes from.

        Raises:
            UnsupportedModelError: If ``model`` is not UBJSON.
            StorageError: If the folder cannot be written.
        """
        _refuse_foreign(model, "the model to save")
        contents = {
            MODEL: model,
            SCHEMA: schema.to_json().encode(),
            METRICS: json.dumps(metrics, indent=1, allow_nan=False).encode(),
        }
        files = {
            file: _File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for file, data in contents.items()
        }
        manifest = _Manifest(
            format=FORMAT,
            name=name,
            id=_identity(name, files, lineage, exclude_seen=exclude_seen),
            exclude_seen=exclude_seen,
            lineage=lineage,
            files=files,
        ).sealed()
        target = root / manifest.id
        with suppress(CallerError):  # not there, or damaged
            return cls.load(target)
        contents[MANIFEST] = manifest.to_bytes()
        try:
            _write(root, target, contents)
        except OSError as error:
            raise StorageError.of_writing("the model bundle", error, target) from error
        return cls.load(target)

    @classmethod
    def load(cls, path: Path) -> ModelBundle:
        """Open the bundle in the folder ``path`` and verify every byte of it.

        Raises:
            NotFoundError: If there is no such folder.
            UnsupportedModelError: If something in it is not of a bundle, or of a newer Prescore.
            CallerError: If it is damaged: a file is missing, cut, oversized or altered.
        """
        if not path.is_dir():
            raise NotFoundError(f"no model bundle at {path}", fix="see 'prescore train'")
        raw = {file: _read(path, file) for file in SIZE_LIMITS}
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in SIZE_LIMITS)
        if foreign:
            raise UnsupportedModelError(f"{path} holds more than a model bundle", got=", ".join(foreign[:5]))
        written = raw.pop(MANIFEST)
        try:
            manifest = _Manifest.model_validate_json(written)
        except ValidationError as error:
            raise UnsupportedModelError(
                f"{path / MANIFEST} is not a manifest of format {FORMAT}",
                got=str(error).replace("\n", " ")[:300],
            ) from error
        if manifest.sealed().to_bytes() != written:
            raise _damaged(path / MANIFEST, expected="the bytes that its seal was made of", got="other bytes")
        for file, data in raw.items():
            said = manifest.files.get(file)
            if said is None or said.bytes != len(data) or said.sha256 != hashlib.sha256(data).hexdigest():
                raise _damaged(
                    path / file,
                    expected=f"{said.bytes} bytes with SHA-256 {said.sha256[:16]}…"
                    if said
                    else "its hash in the manifest",
                    got=f"{len(data)} bytes with SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…",
                )
        _refuse_foreign(raw[MODEL], str(path / MODEL))
        identity = _identity(
            manifest.name, manifest.files, manifest.lineage, exclude_seen=manifest.exclude_seen
        )
        if identity != manifest.id:
            raise _damaged(path / MANIFEST, expected=f"id {identity}, from the contents", got=manifest.id)
        return cls(
            path=path,
            name=manifest.name,
            id=manifest.id,
            schema=FeatureSchema.from_json(raw[SCHEMA].decode()),
            metrics=json.loads(raw[METRICS]),
            exclude_seen=manifest.exclude_seen,
            lineage=manifest.lineage,
        )


def _identity(name: str, files: Mapping[str, _File], lineage: Lineage, *, exclude_seen: bool) -> str:
    document = {
        "format": FORMAT,
        "name": name,
        "exclude_seen": exclude_seen,
        "files": {file: files[file].sha256 for file in (MODEL, SCHEMA) if file in files},
        "lineage": lineage.stable(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _write(root: Path, target: Path, contents: Mapping[str, bytes]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".aside-", ignore_cleanup_errors=True) as aside:
        staged = Path(aside) / target.name
        staged.mkdir()
        for file, data in contents.items():
            with (staged / file).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        if target.exists():  # damaged, or it would have been loaded
            shutil.move(target, Path(aside) / "damaged")
        with suppress(FileExistsError):  # another process has just written the same bundle
            staged.rename(target)


def _read(folder: Path, file: str) -> bytes:
    path = folder / file
    if path.is_symlink() or not path.is_file():
        raise _damaged(
            path, expected="a plain file", got="a link or folder" if path.exists() else "no such file"
        )
    size = path.stat().st_size
    if size > SIZE_LIMITS[file]:
        raise _damaged(path, expected=f"at most {SIZE_LIMITS[file]} bytes", got=f"{size} bytes")
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read", got=str(error)) from error


def _damaged(path: Path, *, expected: str, got: str) -> CallerError:
    return CallerError(
        f"the model bundle is damaged: {path}",
        expected=expected,
        got=got,
        fix="restore the folder from a copy, or train again",
    )


def _refuse_foreign(model: bytes, what: str) -> None:
    # XGBoost's UBJSON is an object whose keys have an int64 length: '{', 'L', eight bytes, key.
    if model[:2] != b"{L" or b"learner" not in model[:64]:
        raise UnsupportedModelError(
            f"{what} is not an XGBoost model in UBJSON",
            expected="what booster.save_raw('ubj') gives",
            got=f"{len(model)} bytes that begin with {model[:8]!r}",
            fix="models of other kinds and pickles are never read: train again, or save the booster as UBJSON",
        )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
