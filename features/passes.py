"""Groups a large table in several passes over parts of it, so that what is grouped at once fits into memory.

DuckDB spills a group-by that does not fit, but each row then goes to disk and back: time per row grows with
the table. Passes read the table several times, which costs much less, and time stays linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

ROWS_PER_PASS = 16_000_000
"""Rows of events that one pass groups: about 2 GB of totals."""


def create_in_passes(
    connection: Backend,
    name: str,
    table: ir.Table,
    number: ir.IntegerValue,
    rows: int,
    group: Callable[[ir.Table], ir.Table],
) -> ir.Table:
    """Materialize ``group(table)``, as many rows at a time as a pass takes.

    Args:
        connection: Where to.
        name: Of the table that is made; one of that name is replaced.
        table: What to read.
        number: By its remainder rows are dealt out: it is not negative, and equal for rows that belong together.
        rows: About how many rows the table has.
        group: From rows to what is made of them; must not look beyond rows of one number.
    """
    passes = max(1, -(-rows // ROWS_PER_PASS))
    parts = [table.filter(number % passes == part) for part in range(passes)]
    made = connection.create_table(name, group(parts[0] if passes > 1 else table), overwrite=True)
    for part in parts[1:]:
        connection.insert(name, group(part))
    return made
