"""Arrow tables in files that say what they are and are known to be whole: read by memory map, refused when damaged.

A file is an Arrow IPC file whose metadata names its kind and format, followed by 16 bytes: MurmurHash3
(x64, 128 bits) of all that comes before. It is written aside and renamed, so that a name holds all or nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import mmh3
import pyarrow as pa

from features.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_CHECK = 16


def write_checked(file: Path, kind: str, table: pa.Table, facts: dict[str, str]) -> None:
    """Write a table, replacing the file.

    Args:
        file: Where; its folder is made if need be.
        kind: What it is, with its version, such as ``snapshot 1``.
        table: Its columns.
        facts: Kept beside it.

    Raises:
        StorageError: If it cannot be written.
    """
    aside = file.with_name(f".{file.name}.{uuid4().hex}")
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({"prescore": kind, **facts})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(content)
            stream.write(mmh3.mmh3_x64_128_digest(content))
        aside.replace(file)
    except OSError as error:
        raise StorageError.of_writing(str(file), error, file.parent) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def read_checked(file: Path, kind: str) -> tuple[pa.Table, dict[str, str]]:
    """The table, on memory-mapped pages, and its facts.

    Raises:
        StorageError: If the file cannot be read, is damaged, or is of another kind or version.
    """
    try:
        with pa.memory_map(str(file)) as source:
            whole = source.read_buffer()
        content, check = whole.slice(0, max(0, whole.size - _CHECK)), whole.slice(max(0, whole.size - _CHECK))
        if mmh3.mmh3_x64_128_digest(content) != check.to_pybytes():
            raise _unusable(file, kind, "a file that is damaged, cut off, or something else")
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, kind, str(error)) from error
    facts = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    got = facts.pop("prescore", "")
    if got != kind:
        raise _unusable(file, kind, got or "another Arrow file")
    return table, facts


def _unusable(file: Path, kind: str, got: str) -> StorageError:
    return StorageError(
        f"{file} cannot be used", expected=kind, got=got, fix="make a full run, which writes it anew"
    )
