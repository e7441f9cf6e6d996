"""Resolves a generation: whose rows each user's list is, a delta's own or those of the generations it stands on.

A delta's scored files hold the lists that differ from its parent's, and a row of rank 0 for every user whose list
is gone. A user's list is that of the newest generation in the lineage that says anything of the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import StorageError
from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Block, Generation

GONE = 0
"""Rank of the row that says that a user's list is gone; its item and score are null."""

ROW_COLUMNS = (USER_ID, "rank", ITEM_ID, "score")


@dataclass(frozen=True)
class Part:
    """Users of a block whose lists one generation wrote.

    Attributes:
        owner: That generation.
        rows: Their rows, sorted by (user_id, rank), or the first row of each.
    """

    owner: Generation
    rows: pa.Table

    @property
    def users(self) -> pa.ChunkedArray:
        """Each user once, ascending."""
        return self.rows.filter(pc.equal(self.rows["rank"], 1))[USER_ID]


@dataclass(frozen=True)
class Lineage:
    """A generation and those that it stands on.

    Attributes:
        generations: Newest first; the last one is a full one.
        blocks: Their blocks by number, in the same order.
    """

    generations: Sequence[Generation]
    blocks: Sequence[Mapping[int, Block]]

    @classmethod
    def of(cls, catalogue: Catalogue, generation: Generation) -> Lineage:
        """Follow the parents.

        Raises:
            NotFoundError: If the catalogue has lost one.
        """
        chain = [generation]
        while chain[-1].kind == "delta":
            chain.append(catalogue.generation(chain[-1].parent))
        return cls(chain, [{block.number: block for block in catalogue.blocks(g.id)} for g in chain])

    @property
    def generation(self) -> Generation:
        """The one that is resolved."""
        return self.generations[0]

    @property
    def ids(self) -> list[str]:
        """Of all generations, newest first."""
        return [generation.id for generation in self.generations]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the blocks; the same in all generations."""
        return sorted(self.blocks[-1])

    @property
    def files(self) -> list[list[str]]:
        """Scored files of each generation, newest first."""
        return [[block.path for block in blocks.values() if block.path] for blocks in self.blocks]

    def parts(
        self, number: int, among: pa.Array | None = None, columns: Sequence[str] = (USER_ID, "rank")
    ) -> Iterator[Part]:
        """Lists of a block, by the generation that wrote them; users without a list are in no part.

        Args:
            number: Of the block.
            among: Only these users; ``None``: all.
            columns: Of the rows; with :data:`ROW_COLUMNS` all rows are read, otherwise the first one of each user.

        Raises:
            StorageError: If a scored file is missing or damaged.
        """
        seen: list[pa.Array] = []
        whole = ITEM_ID in columns
        for owner, blocks in zip(self.generations, self.blocks, strict=True):
            block = blocks.get(number)
            if block is None or not block.path:
                continue
            rows = read_rows(block.path, columns, among)
            if seen:
                rows = rows.filter(pc.invert(pc.is_in(rows[USER_ID], value_set=pa.concat_arrays(seen))))
            if owner is not self.generations[-1]:
                heads = rows.filter(pc.less_equal(rows["rank"], 1))
                seen += heads[USER_ID].chunks
            rows = rows.filter(pc.greater(rows["rank"], GONE) if whole else pc.equal(rows["rank"], 1))
            if rows.num_rows:
                yield Part(owner, rows)

    def touched(self, among: Collection[str]) -> dict[int, pa.Array]:
        """Users of whom some of the generations say anything, by block; blocks without any are left out.

        Args:
            among: Ids of generations; others are not looked at.
        """
        found: dict[int, list[pa.Array]] = {}
        for generation, blocks in zip(self.generations, self.blocks, strict=True):
            if generation.id in among:
                for number, block in blocks.items():
                    if block.path:
                        rows = read_rows(block.path, (USER_ID, "rank"))
                        heads = rows.filter(pc.less_equal(rows["rank"], 1))
                        found.setdefault(number, []).extend(heads[USER_ID].chunks)
        return {number: pa.concat_arrays(chunks).unique() for number, chunks in sorted(found.items())}


def read_rows(path: Path | str, columns: Sequence[str], among: pa.Array | None = None) -> pa.Table:
    """Rows of a scored block's file.

    Args:
        path: Of the file.
        columns: To read.
        among: Only rows of these users; ``None``: all.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    try:
        # One file, not a data set: the folder's name must not become a column.
        with pq.ParquetFile(path) as file:
            rows = file.read(columns=list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"the scored rows in {path} cannot be read", got=str(error), fix="publish the generation again"
        ) from error
    if among is None:
        return rows
    return rows.filter(pc.is_in(rows[USER_ID], value_set=among.cast(rows[USER_ID].type)))
