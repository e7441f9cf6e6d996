"""The scored tables as Arrow: SQL over what is live, over all that is kept, and over what was served at some time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from features.errors import CallerError, NotFoundError
from materialize.generation.catalogue import Catalogue
from materialize.generation.lineage import ROW_COLUMNS, Lineage
from materialize.publish import sql
from materialize.settings import Settings, load_settings

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from pathlib import Path

    from materialize.generation.records import Generation


def read(
    query: str = "FROM recommendations",
    settings: Settings | Path | None = None,
    *,
    generation: str = "",
    as_of: dt.datetime | None = None,
) -> pa.Table:
    """Answer a query over the scored tables.

    ``read("FROM recommendations WHERE user_id = 1 ORDER BY rank")`` is a user's list;
    ``read("FROM recommendations_joined", as_of=yesterday)`` is all that was served then, with names.

    Args:
        query: One SELECT in DuckDB's dialect over the views of :mod:`materialize.publish.sql`.
        settings: A settings tree or the path of its file; ``None``: ``prescore.toml`` here.
        generation: Let ``recommendations`` be this generation instead of the live one.
        as_of: Let it be the one that was live at this instant; with a zone.

    Returns:
        The answer. A generation's lists are whole, also where it is a delta.

    Raises:
        CallerError: If both are given, the instant has no zone, or the statement would write or is not valid.
        NotFoundError: If it names something that does not exist, or that is no longer kept.
        StorageError: If catalogue or tables cannot be read.
    """
    tree = settings if isinstance(settings, Settings) else load_settings(settings)
    catalogue = Catalogue.open(tree.catalogue_url)
    found = _choose(catalogue, tree.model, generation, as_of)
    return sql.read(query, tree, Lineage.of(catalogue, found).ids if found else None)


def rows_of(catalogue: Catalogue, generation: Generation) -> Iterator[pa.Table]:
    """A generation's rows, block by block: ``generation, user_id, rank, item_id, score``.

    ``generation`` is the one that wrote the list: of a delta, for most users one that it stands on.

    Raises:
        StorageError: If a scored file is missing or damaged.
    """
    lineage = Lineage.of(catalogue, generation)
    for number in lineage.numbers:
        for part in lineage.parts(number, columns=ROW_COLUMNS):
            owner = pa.repeat(pa.scalar(part.owner.id, pa.string()), part.rows.num_rows)
            yield part.rows.add_column(0, "generation", owner)


def _choose(
    catalogue: Catalogue, model: str, generation: str, as_of: dt.datetime | None
) -> Generation | None:
    if generation and as_of:
        raise CallerError("a generation and an instant cannot both be chosen", fix="leave one of them out")
    if generation:
        return catalogue.generation(generation)
    if as_of is None:
        return catalogue.live_generation(model)
    if as_of.tzinfo is None:
        raise CallerError("the instant has no zone", got=as_of.isoformat())
    flips = catalogue.flips(model)
    live = next((flip.generation for flip in flips if flip.flipped_at <= as_of), None)
    if live is None:
        first = f"the first publication was at {flips[-1].flipped_at:%Y-%m-%d %H:%M:%S} UTC" if flips else ""
        raise NotFoundError(f"nothing was live at {as_of.isoformat()}", got=first)
    found = catalogue.find_generation(live)
    if found is None:
        raise NotFoundError(
            f"generation {live}, live at {as_of.isoformat()}, is no longer kept",
            fix="[retention] generations says how many are",
        )
    return found
