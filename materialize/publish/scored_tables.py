"""Scored tables: every generation's lists, and what they are joined with, as Apache Iceberg tables.

The catalog is PyIceberg's SQL catalog in the catalogue's database, namespace ``prescore``:

=================== ================================================================================
``recommendations`` ``generation, user_id, rank, item_id, score``; partitioned by generation
``items, users``    attributes of the entities; replaced by each publication
``models``          likewise
``generations``     likewise
=================== ================================================================================

Workers write Parquet files, sorted by user, under ``recommendations/data/generation=<id>/``; one commit adds
all of them. Nothing but :meth:`ScoredTables.collect_orphans` and :meth:`ScoredTables.drop_generation`
removes files.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, EqualTo
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import FloatType, IcebergType, IntegerType, LongType, NestedField, StringType
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from features.errors import NotFoundError, SchemaMismatchError, StorageError
from features.schema import ITEM_ID, USER_ID
from materialize.publish.iceberg_files import collect, forget_history, local_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pyiceberg.table import Table

    from materialize.settings import Settings

NAMESPACE = "prescore"
RECOMMENDATIONS = "recommendations"
JOINED = ("items", "users", "models", "generations")
"""Tables that are replaced as a whole."""

ROWS_PER_GROUP = 131_072
"""Rows of a Parquet row group. A user's rows lie in one or two of one file; statistics and a Bloom filter rule out
all others. Smaller groups make longer footers, and each file's footer is read for every query."""

_FALSE_HITS = 0.01
"""Share of row groups that a Bloom filter fails to rule out."""

_COLUMNS = [USER_ID, "rank", ITEM_ID, "score"]
_ATTEMPTS = 4


@dataclass(frozen=True)
class BlockFile:
    """A file of scored rows: where it is, how many rows, SHA-256 of its bytes."""

    path: Path
    rows: int
    sha256: str


def write_block_file(path: Path, generation: str, rows: pa.Table) -> BlockFile:
    """Write one scored block; aside and renamed, so that a file that exists is complete.

    Args:
        path: Of :meth:`ScoredTables.block_path`; its folder is made.
        generation: Id of the generation.
        rows: ``user_id, rank, item_id, score``, sorted by (user_id, rank).

    Raises:
        SchemaMismatchError: If a column is missing.
        StorageError: If the disk is full or cannot be written; nothing is left of the file.
    """
    if missing := [name for name in _COLUMNS if name not in rows.column_names]:
        raise SchemaMismatchError(
            "a scored block lacks columns", expected=", ".join(_COLUMNS), got=f"no {missing}"
        )
    constant = pa.repeat(pa.scalar(generation, pa.string()), rows.num_rows)
    table = rows.select(_COLUMNS).add_column(0, "generation", constant)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        users = pc.sum(pc.less_equal(table["rank"], 1)).as_py() or 1
        pq.write_table(
            table,
            aside,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            store_schema=False,
            bloom_filter_options={USER_ID: {"ndv": users, "fpp": _FALSE_HITS}},
        )
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StorageError.of_writing(f"the scored block {path.name}", error, path.parent) from error
    return BlockFile(path, rows.num_rows, digest)


class ScoredTables:
    """The tables of one warehouse."""

    def __init__(self, catalogue_url: str, warehouse: Path) -> None:
        """Open them; what is missing is made at the first write.

        Args:
            catalogue_url: SQLAlchemy URL.
            warehouse: Folder of the tables.

        Raises:
            StorageError: If the database cannot be reached.
        """
        self.folder = warehouse.absolute()
        if catalogue_url.startswith("sqlite:///"):
            Path(catalogue_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._catalog = SqlCatalog(NAMESPACE, uri=catalogue_url, warehouse=str(self.folder))
            # A pool would keep connections open for as long as the object lives; commits are few.
            self._catalog.engine.dispose()
            self._catalog.engine = create_engine(catalogue_url, poolclass=NullPool)
            self._catalog.create_namespace(NAMESPACE)
        except NamespaceAlreadyExistsError:
            pass
        except SQLAlchemyError as error:
            raise StorageError(
                "the catalogue database of the scored tables cannot be reached",
                got=type(error).__name__,
                fix="check [catalogue] url",
            ) from error

    @classmethod
    def of(cls, settings: Settings) -> ScoredTables:
        """The tables that the settings name."""
        return cls(settings.catalogue_url, settings.warehouse_path / "tables")

    def block_path(self, generation: str, block: int, blocks: int) -> Path:
        """Where a worker writes a block of a generation; the name tells queries whose rows can be in the file."""
        return self.generation_folder(generation) / f"block-{block:06d}-of-{blocks:06d}.parquet"

    def generation_folder(self, generation: str) -> Path:
        """Folder of a generation's files."""
        return self.folder / RECOMMENDATIONS / "data" / f"generation={generation}"

    def table(self, name: str) -> Table:
        """An Iceberg table by its name.

        Raises:
            NotFoundError: If nothing was published yet.
        """
        try:
            return self._catalog.load_table((NAMESPACE, name))
        except NoSuchTableError as error:
            raise NotFoundError(
                f"there is no table {name!r} yet", fix="publish a generation first"
            ) from error

    def names(self) -> list[str]:
        """The tables that exist, sorted."""
        return sorted(identifier[-1] for identifier in self._catalog.list_tables(NAMESPACE))

    def commit_generation(self, generation: str, files: Sequence[Path]) -> bool:
        """Add a generation's files in one commit; readers see all of them or none.

        A retry after a crash finds them there. If other files of the generation are there, they are replaced;
        no files at all remove its rows.

        Returns:
            Whether a commit was needed.

        Raises:
            StorageError: If other commits keep getting in between, or a file of the commit cannot be written.
            SchemaMismatchError: If the ids have another type than in the table.
        """
        wanted = {str(path.absolute()) for path in files}
        if not wanted and RECOMMENDATIONS not in self.names():
            return False
        for attempt in range(_ATTEMPTS):
            table = self._recommendations(files)
            present = {str(path) for path in self._files(table, generation)}
            if present == wanted:
                return False
            try:
                with table.transaction() as change:
                    if present:
                        change.delete(EqualTo(term="generation", value=generation))
                    if wanted:
                        change.add_files(
                            sorted(wanted),
                            snapshot_properties={"prescore.generation": generation},
                            check_duplicate_files=False,
                        )
            except OSError as error:
                what = f"the commit of generation {generation} to the scored tables"
                raise StorageError.of_writing(what, error, self.folder) from error
            except CommitFailedException as error:
                if attempt == _ATTEMPTS - 1:
                    raise StorageError(
                        f"generation {generation} cannot be committed", got=str(error), fix="run again"
                    ) from error
            else:
                return True
        return False

    def generations(self) -> list[str]:
        """Ids of the generations that have rows, sorted."""
        if RECOMMENDATIONS not in self.names():
            return []
        partitions = self.table(RECOMMENDATIONS).inspect.partitions()
        return sorted(row["generation"] for row in partitions["partition"].to_pylist())

    def files(self, generation: str) -> list[Path]:
        """The committed files of a generation, sorted; none if there is no such generation."""
        return self._files(self.table(RECOMMENDATIONS), generation) if RECOMMENDATIONS in self.names() else []

    def blocks(self, generation: str, columns: Sequence[str] = tuple(_COLUMNS)) -> Iterator[pa.Table]:
        """A generation's rows, file by file, each sorted by (user_id, rank)."""
        for path in self.files(generation):
            # One file, not a data set: the folder's name must not become a column.
            yield pq.ParquetFile(path).read(columns=list(columns))

    def user_ids(self, generation: str) -> pa.Array:
        """Users that have a list in a generation; each once, in no order."""
        parts = [pc.unique(block[USER_ID]) for block in self.blocks(generation, [USER_ID])]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.int64())

    def replace(self, name: str, table: pa.Table) -> None:
        """Replace the rows of ``items``, ``users``, ``models`` or ``generations``, and its columns if they changed."""
        location = str(self.folder / name)
        present = self._catalog.create_table_if_not_exists((NAMESPACE, name), table.schema, location)
        if present.schema().as_arrow().names != table.schema.names or not _same_types(present, table):
            self._catalog.drop_table((NAMESPACE, name))
            present = self._catalog.create_table((NAMESPACE, name), table.schema, location)
        with present.transaction() as change:
            if any(present.scan().plan_files()):
                change.delete(AlwaysTrue())
            change.append(table)

    def drop_generation(self, generation: str) -> None:
        """Remove a generation: its rows in one commit, then its files and the history that names them."""
        if self.files(generation):
            self.table(RECOMMENDATIONS).delete(EqualTo(term="generation", value=generation))
        self.collect_orphans(0)

    def erase_user(self, user_id: int | str, building: Collection[str] = ()) -> int:
        """Remove a user from the rows of every generation and of ``users``, and the files and history that held them.

        Args:
            user_id: Of the tables' type of id.
            building: Generations whose files are written but not committed; they stay.

        Returns:
            Rows removed.
        """
        removed = 0
        for name in (RECOMMENDATIONS, "users"):
            if name not in self.names():
                continue
            table, theirs = self.table(name), EqualTo(term=USER_ID, value=user_id)
            found = table.scan(row_filter=theirs, selected_fields=(USER_ID,)).count()
            if found:
                table.delete(theirs)
            removed += found
        self.collect_orphans(0, building)
        return removed

    def collect_orphans(self, older_than_seconds: float = 3600, building: Collection[str] = ()) -> list[Path]:
        """Delete what no table refers to: leftovers of crashes, replaced files, old metadata.

        Args:
            older_than_seconds: Younger files stay, for readers that have just planned to read them.
            building: Generations whose files are written but not committed; they stay.

        Returns:
            The files that were deleted.
        """
        kept = [self.generation_folder(generation) for generation in building]
        removed: list[Path] = []
        for name in self.names():
            table = forget_history(self.table(name))
            removed += collect(table, self.folder / name, older_than_seconds, kept)
        return removed

    def _recommendations(self, files: Sequence[Path]) -> Table:
        types = _id_types(files[0]) if files else None
        if RECOMMENDATIONS in self.names():
            table = self.table(RECOMMENDATIONS)
            present = (table.schema().find_type(USER_ID), table.schema().find_type(ITEM_ID))
            if types is not None and present != types:
                raise SchemaMismatchError(
                    "the ids of this generation have another type than those of earlier ones",
                    expected=f"user {present[0]}, item {present[1]}",
                    got=f"user {types[0]}, item {types[1]}",
                    fix="publish into another warehouse",
                )
            return table
        user, item = types or (LongType(), LongType())
        schema = Schema(
            NestedField(1, "generation", StringType()),
            NestedField(2, USER_ID, user),
            NestedField(3, "rank", IntegerType()),
            NestedField(4, ITEM_ID, item),
            NestedField(5, "score", FloatType()),
        )
        return self._catalog.create_table(
            (NAMESPACE, RECOMMENDATIONS),
            schema,
            location=str(self.folder / RECOMMENDATIONS),
            partition_spec=PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "generation")),
            properties={"write.parquet.row-group-limit": str(ROWS_PER_GROUP)},
        )

    @staticmethod
    def _files(table: Table, generation: str) -> list[Path]:
        tasks = table.scan(row_filter=EqualTo(term="generation", value=generation)).plan_files()
        return sorted(local_path(task.file.file_path) for task in tasks)


def _id_types(path: Path) -> tuple[IcebergType, IcebergType]:
    schema = pq.read_schema(path)

    def of(name: str) -> IcebergType:
        return LongType() if pa.types.is_integer(schema.field(name).type) else StringType()

    return of(USER_ID), of(ITEM_ID)


def _same_types(present: Table, table: pa.Table) -> bool:
    try:
        table.select(present.schema().as_arrow().names).cast(present.schema().as_arrow())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError):
        return False
    return True
