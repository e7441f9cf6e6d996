"""Opens the files of one table, Parquet or delimited text, as an Ibis table.

Delimited text is read as text throughout: a reader that guesses types from a sample turns the id
``00123`` into 123 and fails on the first surprise ten million rows later. What a column holds is
decided afterwards, from all of its rows (:mod:`features.columns`).
"""

from __future__ import annotations

import csv
import glob
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from features.errors import PrescoreError, SourceError, StorageError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

PARQUET_ENDINGS = (".parquet", ".pq")
TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".inter", ".user", ".item")
_FULL = (
    "No space left",
    "File too large",
    "Could not write",
    "could not write",
    "Failed to write",
    "max_temp_directory",
)
_TYPED_HEADER = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class TableFiles:
    """One table as it stands in its files.

    Attributes:
        role: ``events``, ``users`` or ``items``: how messages name it.
        table: Its rows; columns named as in the files, without the types of typed headers.
        paths: Its files, sorted.
        is_text: Every column was read as text.
        declared_text: Columns that a typed header (``user_id:token``) declares to be text.
    """

    role: str
    table: ir.Table
    paths: tuple[Path, ...]
    is_text: bool
    declared_text: frozenset[str] = frozenset()


def explain(error: duckdb.Error, what: str, scratch: Path | None = None) -> PrescoreError:
    """What DuckDB could not do, as ours: a table that it cannot read, or memory or disk that ran out.

    Args:
        error: DuckDB's.
        what: What was being read.
        scratch: Folder that DuckDB works in.
    """
    if isinstance(error, duckdb.OutOfMemoryException) or any(words in str(error) for words in _FULL):
        place = f" at {scratch}" if scratch else ""
        return StorageError(
            "DuckDB ran out of memory or disk",
            got=str(error).splitlines()[0],
            fix=f"free disk space{place}, or raise features.memory_limit",
        )
    # The first lines say where and why; "file = ..." follows, and between them advice on DuckDB's own options.
    # A part of our own query with a mark below it is nobody's business.
    lines = str(error).partition("Possible ")[0].partition("\n\nLINE 1:")[0].splitlines()
    lines += [line.strip() for line in str(error).splitlines() if line.strip().startswith("file = ")]
    return SourceError(
        f"{what} cannot be read",
        expected="intact Parquet, or UTF-8 text with as many fields in each row as in the header",
        got="; ".join(line for line in lines if line)[:500],
        fix="mend the file",
    )


def find_files(path: str, role: str) -> tuple[Path, ...]:
    """Files that a path names: itself, a folder's data files (all levels), or a glob's matches; sorted.

    Raises:
        SourceError: If there are none, or Parquet and text are mixed.
    """
    if not path:
        raise SourceError(
            f"no file is named for the {role}",
            expected=f"path in [{role}] of prescore.toml",
            fix="run 'prescore init' in the folder of your tables, which writes that file, or name it with --settings",
        )
    given = Path(path)
    if given.is_dir():
        found = [
            p for p in given.rglob("*") if p.is_file() and not p.name.startswith((".", "_")) and ending(p)
        ]
    elif given.is_file():
        found = [given]
    else:
        found = [Path(p) for p in glob.glob(path, recursive=True) if Path(p).is_file()]  # noqa: PTH207  # absolute
    if not found:
        raise SourceError(
            f"the {role} cannot be found",
            expected="a Parquet or CSV file, or a folder or glob of them",
            got=f"nothing at {path}",
            fix=f"correct path in [{role}] of prescore.toml",
        )
    kinds = {ending(p) in PARQUET_ENDINGS for p in found}
    if len(kinds) > 1 or "" in {ending(p) for p in found}:
        names = ", ".join(sorted(p.name for p in found)[:5])
        raise SourceError(
            f"the files of the {role} are not of one known kind",
            expected=f"only Parquet ({', '.join(PARQUET_ENDINGS)}) or only text ({', '.join(TEXT_ENDINGS)})",
            got=names,
            fix=f"name a glob in path of [{role}], such as 'events/*.parquet'",
        )
    return tuple(sorted(found))


def ending(path: Path) -> str:
    """The known ending of a data file, ``.gz`` left out; empty where it is none."""
    name = path.name.lower().removesuffix(".gz")
    return next((e for e in (*PARQUET_ENDINGS, *TEXT_ENDINGS) if name.endswith(e)), "")


def open_table(connection: Backend, path: str, role: str) -> TableFiles:
    """Open a table without reading its rows.

    Raises:
        SourceError: If the files are missing, empty of columns, damaged, or not of one kind.
    """
    paths = find_files(path, role)
    names = [str(p) for p in paths]
    try:
        if ending(paths[0]) in PARQUET_ENDINGS:
            return TableFiles(role, connection.read_parquet(names, union_by_name=True), paths, is_text=False)
        header, delimiter = _common_header(paths, role)
        quote = '"' if delimiter != "\t" or _is_quoted(paths[0]) else ""
        table = connection.read_csv(
            names,
            header=True,
            delim=delimiter,
            quote=quote,
            escape=quote,
            auto_detect=False,
            columns=dict.fromkeys(header, "VARCHAR"),
        )
    except duckdb.Error as error:
        raise explain(error, f"the {role}") from error
    bare = {name: name.rpartition(":")[0] if is_typed(name) else name for name in table.columns}
    text = frozenset(bare[n] for n in table.columns if is_typed(n) and ":token" in n)
    return TableFiles(role, table.rename({new: old for old, new in bare.items()}), paths, True, text)


def _is_quoted(path: Path) -> bool:
    """Whether some field of a text with tabs stands in quotes.

    Text with tabs knows no quoting (IANA text/tab-separated-values), and there a title may start with a
    quote; but some programs quote all the same.
    """
    with path.open("rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as file:
        fields = re.split(rb"[\t\r\n]+", file.read(1_000_000))
    return any(len(f) > 1 and f.startswith(b'"') and f.endswith(b'"') for f in fields)


def _common_header(paths: tuple[Path, ...], role: str) -> tuple[list[str], str]:
    first = read_header(paths[0])
    for path in paths[1:]:
        if (other := read_header(path)) != first:
            raise SourceError(
                f"the files of the {role} have different headers",
                expected=f"{', '.join(first[0])} as in {paths[0].name}",
                got=f"{', '.join(other[0])} in {path.name}",
                fix="give all files the same columns in the same order",
            )
    return first


def is_typed(name: str) -> bool:
    """Whether a header cell carries its type in RecBole's manner: ``user_id:token``.

    Source: https://recbole.io/docs/user_guide/data/atomic_files.html
    """
    return name.rpartition(":")[2] in _TYPED_HEADER and bool(name.rpartition(":")[0])


def read_header(path: Path) -> tuple[list[str], str]:
    """Header cells of a text file, and the delimiter that splits its first line into most of them.

    Raises:
        SourceError: If the first line is empty or repeats a name.
    """
    with path.open("rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as file:
        line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    delimiter = max(("\t", ",", ";", "|"), key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter), [])
    if not line.strip() or len(set(cells)) != len(cells) or not all(cells):
        raise SourceError(
            f"{path.name} has no usable header",
            expected="a first line with a different name for each column",
            got=repr(line[:200]),
            fix="add a header line",
        )
    return cells, delimiter
