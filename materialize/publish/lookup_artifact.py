"""The look-up artifact: a folder per generation with all that the look-up service needs beside the store.

::

    artifact.json    generation, model, model_id, feature_cutoff, k, exclude_seen, feature schema,
                     and the size and SHA-256 of every other file
    catalogue/       a bound catalogue, see materialize.scoring.BoundCatalogue
    items.arrow      item_id, title, group columns, item features: one row per item of the catalogue
    default.arrow    item_id, score, best first: the list for users nobody knows

It is written aside and renamed into place, so a folder that exists is complete, and read by memory
map, so the worker processes of one machine share its pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SchemaMismatchError, StorageError
from features.schema import ITEM_ID, FeatureSchema
from materialize.scoring import BoundCatalogue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST, CATALOGUE, ITEMS, DEFAULT = "artifact.json", "catalogue", "items.arrow", "default.arrow"
TITLE, SCORE = "title", "score"

_FORMAT = 1
_CHUNK = 1 << 20


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    generation: str
    model: str
    model_id: str
    feature_cutoff: str
    k: int
    exclude_seen: bool
    schema: msgspec.Raw
    files: dict[str, _File]


@dataclass(frozen=True)
class LookupArtifact:
    """A look-up artifact in memory, its large parts mapped from files.

    Attributes:
        folder: Where it was read from.
        generation, model, model_id: What it belongs to.
        feature_cutoff: The instant before which all features were computed, ISO 8601 in UTC.
        k: Length of a published list.
        schema: Columns of the model, in booster order.
        exclude_seen: Whether items of the user's pair features are kept out of the list.
        catalogue: The scorer with its items.
        items: ``item_id``, ``title`` (string), group columns (string), and item features as they were built, for
            explanations; one row per item.
        default: ``item_id``, ``score`` (float32), best first.
    """

    folder: Path
    generation: str
    model: str
    model_id: str
    feature_cutoff: str
    k: int
    schema: FeatureSchema
    exclude_seen: bool
    catalogue: BoundCatalogue
    items: pa.Table
    default: pa.Table
    titles: dict[int | str, str] = field(repr=False)
    """Title by item id; items without one are absent."""

    @cached_property
    def groups(self) -> dict[str, dict[int | str, str]]:
        """Value by item id, by group column; items without one are absent."""
        ids = self.items[ITEM_ID].to_pylist()
        columns = {name: self.items[name].to_pylist() for name in self.schema.groups}
        return {
            name: {item: value for item, value in zip(ids, values, strict=True) if value is not None}
            for name, values in columns.items()
        }

    @classmethod
    def load(cls, folder: Path) -> LookupArtifact:
        """Map an artifact and verify that its files are those that were written.

        Raises:
            StorageError: If it is missing, incomplete, corrupted, or of another format.
        """
        manifest = _read_manifest(folder)
        for name, written in manifest.files.items():
            _verify(folder, name, written)
        for needed in (ITEMS, DEFAULT):
            if needed not in manifest.files:
                raise _damaged(folder, needed, "the file", "no entry for it in artifact.json")
        items, default = _map_table(folder / ITEMS), _map_table(folder / DEFAULT)
        ids: list[int | str] = items[ITEM_ID].to_pylist()
        titles = items[TITLE].to_pylist()
        return cls(
            folder=folder,
            generation=manifest.generation,
            model=manifest.model,
            model_id=manifest.model_id,
            feature_cutoff=manifest.feature_cutoff,
            k=manifest.k,
            schema=FeatureSchema.from_json(bytes(manifest.schema).decode()),
            exclude_seen=manifest.exclude_seen,
            catalogue=BoundCatalogue.load(folder / CATALOGUE),
            items=items,
            default=default,
            titles={item: title for item, title in zip(ids, titles, strict=True) if title is not None},
        )


def write_lookup_artifact(
    folder: Path,
    *,
    generation: str,
    model: str,
    model_id: str,
    feature_cutoff: str,
    k: int,
    schema: FeatureSchema,
    exclude_seen: bool,
    catalogue: BoundCatalogue,
    items: pa.Table,
    default: pa.Table,
) -> Path:
    """Write an artifact aside and rename it into place; one that is there already is replaced.

    Args:
        folder: The folder that shall appear, such as ``<warehouse>/generations/<id>/lookup``.
        generation: Id of the generation.
        model: Name of the model.
        model_id: Id of the model bundle.
        feature_cutoff: ISO 8601, UTC.
        k: Length of a published list.
        schema: Columns of the model, in booster order.
        exclude_seen: Whether items of the user's pair features are kept out of the list.
        catalogue: The scorer, bound to the candidate items.
        items: ``item_id``, ``title`` (string; nulls: none), group columns (string), and item features.
        default: ``item_id``, ``score``; best first.

    Returns:
        The folder.

    Raises:
        SchemaMismatchError: If a table lacks a column or holds an id twice.
        StorageError: If it cannot be written; nothing is left behind and an older artifact still stands.
    """
    items, default = _check_tables(items, default, schema)
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        (aside / CATALOGUE).parent.mkdir(parents=True)
        catalogue.save(aside / CATALOGUE)
        for name, table in ((ITEMS, items), (DEFAULT, default)):
            with pa.OSFile(str(aside / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        manifest = _Manifest(
            format=_FORMAT,
            generation=generation,
            model=model,
            model_id=model_id,
            feature_cutoff=feature_cutoff,
            k=k,
            exclude_seen=exclude_seen,
            schema=msgspec.Raw(json.dumps(json.loads(schema.to_json())).encode()),
            files={name: _fingerprint(aside / name) for name in _files(aside)},
        )
        with (aside / MANIFEST).open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(aside, folder)
    except OSError as error:
        raise StorageError.of_writing(f"the look-up artifact {folder}", error, folder.parent) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _check_tables(items: pa.Table, default: pa.Table, schema: FeatureSchema) -> tuple[pa.Table, pa.Table]:
    id_type = pa.int64() if schema.item_id_type == "int64" else pa.string()
    wanted = {ITEMS: [ITEM_ID, TITLE, *schema.groups], DEFAULT: [ITEM_ID, SCORE]}
    for name, table in ((ITEMS, items), (DEFAULT, default)):
        if missing := [c for c in wanted[name] if c not in table.column_names]:
            raise SchemaMismatchError(
                f"{name} lacks columns", expected=", ".join(wanted[name]), got=", ".join(missing)
            )
        if pc.count_distinct(table[ITEM_ID]).as_py() != table.num_rows or table[ITEM_ID].null_count:
            raise SchemaMismatchError(
                f"{name} must hold every item once", got="an id that is null or there twice"
            )
    kinds = {field.name: field.type for field in items.schema} | dict.fromkeys(wanted[ITEMS], pa.string())
    items = items.cast(pa.schema({**kinds, ITEM_ID: id_type}))
    default = default.select([ITEM_ID, SCORE]).cast(pa.schema({ITEM_ID: id_type, SCORE: pa.float32()}))
    return items.combine_chunks(), default.combine_chunks()


def _put_in_place(aside: Path, folder: Path) -> None:
    # A directory cannot be renamed over one that holds files, so the old one steps aside first. Readers that
    # have it mapped keep their pages; the pointer never names a folder that is being replaced.
    old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix()


def _fingerprint(path: Path) -> _File:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return _File(size, digest.hexdigest())


def _read_manifest(folder: Path) -> _Manifest:
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise StorageError(
            f"there is no look-up artifact in {folder}",
            expected="a folder with artifact.json that this machine can read",
            got=str(error),
            fix="share the warehouse with this machine, or publish a generation again",
        ) from error
    try:
        manifest = msgspec.json.decode(raw, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise _damaged(folder, MANIFEST, "a manifest of this release", str(error)) from error
    if manifest.format != _FORMAT:
        raise _damaged(folder, MANIFEST, f"format {_FORMAT}", f"format {manifest.format}")
    return manifest


def _verify(folder: Path, name: str, written: _File) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _damaged(folder, MANIFEST, "files inside the folder", name)
    try:
        found = _fingerprint(path)
    except OSError as error:
        raise _damaged(folder, name, "the file", str(error)) from error
    if found != written:
        raise _damaged(
            folder,
            name,
            f"{written.bytes} bytes, SHA-256 {written.sha256[:12]}",
            f"{found.bytes}, {found.sha256[:12]}",
        )


def _map_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def _damaged(folder: Path, name: str, expected: str, got: str) -> StorageError:
    return StorageError(
        f"the look-up artifact {folder} is damaged at {name}",
        expected=expected,
        got=got,
        fix="publish the generation again, or roll back",
    )
