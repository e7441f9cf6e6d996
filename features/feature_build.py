"""A finished feature build: its manifest, and reading its tables by block of users.

pyarrow and pydantic only: scoring workers open builds without DuckDB.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from features.errors import NotFoundError, StorageError
from features.schema import ITEM_ID, USER_HASH, USER_ID, FeatureSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MANIFEST = "manifest.json"
USERS, ITEMS, PAIRS = "user.parquet", "item.parquet", "pair.parquet"


def affinity_file(group: str) -> str:
    """Name of the file with a group's affinity features."""
    return f"affinity_{group}.parquet"


class HashRange(NamedTuple):
    """Users whose hash is at least ``low`` and below ``high`` (at most 2^32)."""

    low: int
    high: int


def block_range(block: int, blocks: int) -> HashRange:
    """Hashes of one of ``blocks`` equal parts of uint32."""
    return HashRange(block * 2**32 // blocks, (block + 1) * 2**32 // blocks)


class CheckedFile(NamedTuple):
    """A file whose bytes were hashed, wherever it is renamed to."""

    inode: int
    size: int
    mtime_ns: int
    sha256: str


_checked: set[CheckedFile] = set()
"""What this process has hashed, or was told of: a file is hashed once, not in every process that reads it."""


def trust(files: Iterable[CheckedFile]) -> None:
    """Take another process's word for it that these files are what they should be."""
    _checked.update(files)


class FileEntry(BaseModel):
    """A file of a build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, rows: int) -> FileEntry:
        """The entry of a file that was just written."""
        sha256 = _sha256_of(path)
        entry = cls(rows=rows, size=path.stat().st_size, sha256=sha256)
        _checked.add(entry.at(path))
        return entry

    def at(self, path: Path) -> CheckedFile:
        """This entry's file, as it lies at a path now."""
        stat = path.stat()
        return CheckedFile(stat.st_ino, stat.st_size, stat.st_mtime_ns, self.sha256)

    def is_intact(self, path: Path) -> bool:
        """Whether the file at a path holds the bytes that were written."""
        try:
            found = self.at(path)
            if found not in _checked and found.size == self.size and _sha256_of(path) == self.sha256:
                _checked.add(found)
        except OSError:
            return False
        return found in _checked


class FeatureManifest(BaseModel):
    """``manifest.json``: what a build is made of and from.

    Attributes:
        cutoff: Name of the cut-off, such as ``20171204T000000Z``.
        fingerprint: SHA-256 over the rows the build depends on, the settings and the code.
        feature_schema: The FeatureSchema's JSON document.
        groups: Group column as it is named here → column of the items table.
        left_out: Column of an entity table → why it is no feature.
        dropped: Rows of the sources that were left out, by ``table: reason``.
        versions: Versions of the libraries that wrote the files.
        files: By file name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    cutoff: str
    fingerprint: str
    feature_schema: dict[str, Any]
    groups: dict[str, str]
    left_out: dict[str, str]
    dropped: dict[str, int]
    versions: dict[str, str]
    files: dict[str, FileEntry]


def cutoff_time(name: str) -> datetime:
    """The instant of a cut-off's name."""
    return datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def name_of_cutoff(cutoff: datetime) -> str:
    """The name of a cut-off, such as ``20171204T000000Z``."""
    return cutoff.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


@dataclass(frozen=True)
class FeatureBuild:
    """One build, opened. Tables are read from disk at each call; a file's hash is checked at its first.

    Attributes:
        path: Its folder.
        manifest: What ``manifest.json`` says.
    """

    path: Path
    manifest: FeatureManifest

    @classmethod
    def load(cls, path: Path) -> FeatureBuild:
        """Open a build.

        Raises:
            NotFoundError: If there is none at the path.
            StorageError: If its manifest cannot be read.
        """
        try:
            text = (path / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFoundError(f"no feature build at {path}", fix="run 'prescore features build'") from error
        try:
            return cls(path, FeatureManifest.model_validate_json(text))
        except ValidationError as error:
            raise StorageError(
                f"the manifest of {path} cannot be read",
                got=f"{error.error_count()} faults",
                fix="remove the folder and build again",
            ) from error

    @property
    def cutoff(self) -> datetime:
        """The instant before which everything was computed."""
        return cutoff_time(self.manifest.cutoff)

    @property
    def cutoff_name(self) -> str:
        """Name of the cut-off, such as ``20171204T000000Z``."""
        return self.manifest.cutoff

    @property
    def tables(self) -> dict[str, FileEntry]:
        """Rows, size and hash by file name."""
        return self.manifest.files

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal bytes."""
        return self.manifest.fingerprint

    @cached_property
    def schema(self) -> FeatureSchema:
        """Every feature of the build; scopes, vocabularies, id types."""
        return FeatureSchema.from_json(json.dumps(self.manifest.feature_schema))

    @property
    def groups(self) -> list[str]:
        """Group columns, sorted."""
        return self.schema.groups

    def rows(self, file: str) -> int:
        """Rows of a file, from the manifest."""
        return self.manifest.files[file].rows

    def file(self, name: str) -> Path:
        """Path of a file whose hash has been checked.

        Raises:
            NotFoundError: If the build has no such file.
            StorageError: If its bytes are not those that were written.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise NotFoundError(
                f"the build {self.path} has no {name}", expected=", ".join(sorted(self.manifest.files))
            )
        path = self.path / name
        if not entry.is_intact(path):
            raise StorageError(
                f"{path} is damaged",
                expected=f"{entry.size} bytes with SHA-256 {entry.sha256}",
                got="other bytes" if path.exists() else "no file",
                fix="remove the build's folder and build again",
            )
        return path

    def checked_files(self) -> frozenset[CheckedFile]:
        """All files, checked, for :func:`trust` in other processes.

        Raises:
            StorageError: If one is damaged.
        """
        return frozenset(entry.at(self.file(name)) for name, entry in self.manifest.files.items())

    def read_users(self, hashes: HashRange | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """``user.parquet``, or the users of a block; sorted by (user_hash, user_id)."""
        return self._read(USERS, hashes, columns)

    def read_affinity(
        self, group: str, hashes: HashRange | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """``affinity_<group>.parquet``, or a block of it; sorted by (user_hash, user_id, group)."""
        return self._read(affinity_file(group), hashes, columns)

    def read_pairs(self, hashes: HashRange | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """``pair.parquet``, or a block of it; sorted by (user_hash, user_id, item_id)."""
        return self._read(PAIRS, hashes, columns)

    def read_seen(self, hashes: HashRange | None = None) -> pa.Table:
        """What users had in the pair history: ``user_id, item_id``; other rows of pairs are neighbours of these."""
        pairs = self.read_pairs(hashes, [USER_ID, ITEM_ID, "pair_events"])
        return pairs.filter(pc.is_valid(pairs["pair_events"])).select([USER_ID, ITEM_ID])

    def read_items(self, columns: Sequence[str] | None = None, *, candidates_only: bool = True) -> pa.Table:
        """``item.parquet``, sorted by item_id; by default only what can be recommended."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, "candidate"]))
        table = pq.read_table(self.file(ITEMS), columns=wanted, memory_map=True, partitioning=None)
        table = table.filter(table["candidate"]) if candidates_only else table
        return table if columns is None else table.select(list(columns))

    def _read(self, name: str, hashes: HashRange | None, columns: Sequence[str] | None) -> pa.Table:
        with pq.ParquetFile(self.file(name), memory_map=True) as file:
            if hashes is None:
                return file.read(columns=None if columns is None else list(columns))
            keyed = None if columns is None else list(dict.fromkeys([USER_HASH, *columns]))
            table = file.read_row_groups(_row_groups(file, hashes), columns=keyed)
        # Sorted by hash, so a block is one slice.
        places = np.searchsorted(table[USER_HASH].to_numpy(), np.array([hashes.low, hashes.high], np.uint64))
        table = table.slice(int(places[0]), int(places[1] - places[0]))
        return table if columns is None else table.select(list(columns))


def _row_groups(file: pq.ParquetFile, hashes: HashRange) -> list[int]:
    column = file.schema_arrow.get_field_index(USER_HASH)
    chosen = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        # Statistics are missing where a row group has no rows.
        if statistics is not None and statistics.max >= hashes.low and statistics.min < hashes.high:
            chosen.append(group)
    return chosen


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_builds(folder: Path) -> list[FeatureBuild]:
    """Builds in a folder, oldest cut-off first; unfinished ones are not there."""
    return [FeatureBuild.load(p.parent) for p in sorted(folder.glob("[0-9]*T[0-9]*Z/" + MANIFEST))]
