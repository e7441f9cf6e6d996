"""Which files an Iceberg table still refers to, and the removal of all others.

PyIceberg's ``expire_snapshots`` forgets snapshots and leaves their files on disk.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from pyiceberg.table import Table


def local_path(location: str) -> Path:
    """The path that a location names.

    Raises:
        StorageError: If it is not on this machine's file system.
    """
    # PyIceberg takes what follows file:// literally: nothing is percent-encoded.
    path = Path(location.removeprefix("file://"))
    if not path.is_absolute():
        raise StorageError("a data file is not on a local file system", got=location)
    return path


def forget_history(table: Table) -> Table:
    """Expire every snapshot but the current one; the table as it is then."""
    current = table.current_snapshot()
    old = [
        s.snapshot_id for s in table.snapshots() if current is None or s.snapshot_id != current.snapshot_id
    ]
    if old:
        table.maintenance.expire_snapshots().by_ids(old).commit()
    return table.refresh()


def collect(table: Table, folder: Path, older_than_seconds: float, kept: Collection[Path]) -> list[Path]:
    """Delete the files of a table's folder that its current metadata does not lead to.

    Args:
        table: Just loaded.
        folder: Where the table keeps everything.
        older_than_seconds: Younger files stay.
        kept: Folders whose files stay.

    Returns:
        The files that were deleted.
    """
    needed = _referenced(table)
    latest = time.time() - older_than_seconds
    removed = []
    for path in sorted(folder.rglob("*"), reverse=True):
        if any(path.is_relative_to(keep) for keep in kept):
            continue
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in needed and path.stat().st_mtime <= latest:
            path.unlink()
            removed.append(path)
    return removed


def _referenced(table: Table) -> set[Path]:
    """The metadata file, and for every snapshot its manifest list, manifests, data files and deletes."""
    needed = {local_path(table.metadata_location)}
    for snapshot in table.snapshots():
        needed.add(local_path(snapshot.manifest_list))
        for manifest in snapshot.manifests(table.io):
            needed.add(local_path(manifest.manifest_path))
            needed |= {
                local_path(entry.data_file.file_path)
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
            }
    return needed
