"""What a generation leaves for a delta on it: its signed items, and each block's signatures and lists.

They lie in ``<warehouse>/generations/<id>/delta/``, hold user ids, and can be removed at any time: the next
generation is a full one then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from materialize.generation.artifact import generation_folder
from materialize.scoring.signatures import SignedItems
from materialize.scoring.snapshot import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.scoring import BoundCatalogue
    from materialize.settings import Settings


def snapshot_folder(settings: Settings, generation_id: str) -> Path:
    """Folder of a generation's snapshots."""
    return generation_folder(settings, generation_id) / "delta"


def has_snapshots(folder: Path, blocks: int) -> bool:
    """Whether the items and all blocks are there; a file that exists is complete."""
    return _items(folder).is_file() and all(block_file(folder, number).is_file() for number in range(blocks))


def save_items(catalogue: BoundCatalogue, folder: Path) -> None:
    """Sign a catalogue's items and write that.

    Raises:
        StorageError: If it cannot be written.
    """
    SignedItems.of(catalogue).save(_items(folder))


def load_items(folder: Path) -> SignedItems:
    """The signed items.

    Raises:
        StorageError: If they are missing or damaged.
    """
    return SignedItems.load(_items(folder))


def save_block(snapshot: Snapshot, folder: Path, generation_id: str, number: int) -> None:
    """Write the snapshot of a block.

    Raises:
        StorageError: If it cannot be written.
    """
    snapshot.save(block_file(folder, number), _label(generation_id, number))


def load_block(folder: Path, generation_id: str, number: int) -> Snapshot:
    """The snapshot of a block.

    Raises:
        StorageError: If it is missing, damaged or another's.
    """
    return Snapshot.load(block_file(folder, number), _label(generation_id, number))


def _items(folder: Path) -> Path:
    return folder / "items.checked"


def block_file(folder: Path, number: int) -> Path:
    """Where the snapshot of a block is."""
    return folder / f"block-{number:06d}.checked"


def _label(generation_id: str, number: int) -> str:
    return f"{generation_id} block {number}"
