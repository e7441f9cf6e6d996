"""Opens a generation's lists beside the live ones for measuring: DuckDB views on the scored files.

Of a delta only the lists that differ from its parent's are beside their old ones; what the measures make of
that for the whole generation is exact, since all other lists are the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from features.errors import StorageError
from materialize.generation.lineage import Lineage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from materialize.generation.catalogue import Catalogue
    from materialize.generation.records import Generation

SAMPLED_USERS = 20_000
_MEMORY = "1GB"
_COLUMNS = "user_id, rank, item_id, score"


@dataclass(frozen=True)
class ComparedLists:
    """Lists of a generation and of the live one.

    Attributes:
        files: Scored files of the generation and of those it stands on, newest first.
        live_files: Likewise of the live one; empty: nothing is live.
        k: How far lists of both go.
        users: Users with a list in the files of the generation itself.
        lists: Users with a list in the generation.
    """

    files: Sequence[Sequence[str]]
    live_files: Sequence[Sequence[str]]
    k: int
    users: int
    lists: int

    @classmethod
    def of(cls, catalogue: Catalogue, generation: Generation, live: Generation | None) -> ComparedLists:
        """As the catalogue has them."""
        lineage = Lineage.of(catalogue, generation)
        own = list(lineage.blocks[0].values())
        return cls(
            files=lineage.files,
            live_files=Lineage.of(catalogue, live).files if live else (),
            k=min(generation.k, live.k) if live else generation.k,
            users=sum(block.users for block in own),
            lists=sum(block.lists for block in own),
        )

    @property
    def is_delta(self) -> bool:
        """Whether only the lists in the first files differ from the live ones."""
        return len(self.files) > 1

    @property
    def every(self) -> int:
        """One of so many users is sampled."""
        return max(1, self.users // SAMPLED_USERS)

    @property
    def has_live(self) -> bool:
        """Whether there is any live list to compare with."""
        return any(self.live_files)

    @contextmanager
    def open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database with these views.

        ``new`` and ``old`` (if anything is live), lists that may differ; ``new_sample`` and ``old_sample``, of the same
        whole users; ``resolved``, all lists of the generation; ``written``, rows of its own files.

        Raises:
            StorageError: If a file cannot be read.
        """
        try:
            with duckdb.connect(config={"memory_limit": _MEMORY}) as database:
                _views(database, "resolved", self.files)
                database.execute(f"CREATE VIEW written AS FROM resolved_0 SELECT {_COLUMNS}")
                # A delta's few lists are sought once among all the others, not by every measure.
                kind = "TABLE" if self.is_delta else "VIEW"
                database.execute(f"CREATE {kind} new AS SELECT {_COLUMNS} FROM written WHERE rank > 0")  # noqa: S608 - our own names
                names = ["new"]
                if self.has_live:
                    _views(database, "live", self.live_files)
                    among = " WHERE user_id IN (SELECT user_id FROM written)" if self.is_delta else ""
                    database.execute(f"CREATE {kind} old AS SELECT {_COLUMNS} FROM live{among}")  # noqa: S608 - our own names
                    names.append("old")
                for name in names:
                    database.execute(
                        f"CREATE VIEW {name}_sample AS SELECT * FROM {name} WHERE hash(user_id) % {self.every} = 0"  # noqa: S608 - our own names
                    )
                yield database
        except duckdb.Error as error:
            raise StorageError(
                "the scored files cannot be measured", got=str(error).splitlines()[0], fix="publish again"
            ) from error


def _views(database: duckdb.DuckDBPyConnection, name: str, chain: Sequence[Sequence[str]]) -> None:
    """A view of each generation's files, ``<name>_<number>``, and of what they resolve to, ``<name>``."""
    parts: list[str] = []
    newer: list[str] = []
    for number, files in enumerate(chain):
        if not files:
            continue
        part = f"{name}_{number}"
        database.read_parquet(list(files)).create_view(part)
        conditions = ["rank > 0"]
        conditions += [f"user_id NOT IN (SELECT user_id FROM {n} WHERE rank <= 1)" for n in newer]  # noqa: S608 - our own names
        parts.append(f"SELECT {_COLUMNS} FROM {part} WHERE {' AND '.join(conditions)}")  # noqa: S608 - our own names
        newer.append(part)
    database.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(parts)}")
