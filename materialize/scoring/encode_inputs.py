"""Turn tables of users, affinities, pairs and exclusions into arrays in the catalogue's numbering."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SchemaMismatchError
from features.schema import ITEM_ID, USER_ID, FeatureColumn, FeatureSchema, FeatureScope
from materialize.scoring.kernels_encoding import read_floats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from materialize.scoring.rank_codes import RankCodes


_MANY = 16_384
"""A table of fewer rows is read before threads have started."""


@dataclass(frozen=True)
class Entries:
    """Sparse rows of users, sorted by user.

    Attributes:
        start: int64[U + 1], entries of each user.
        key: int32[n], group or item of an entry.
        codes: int16[rows, n].
    """

    start: NDArray[np.int64]
    key: NDArray[np.int32]
    codes: NDArray[np.int16]

    def take(self, users: NDArray[np.int64]) -> Entries:
        """Those of some users, int64[n], in that order."""
        begin, sizes = self.start[users], self.start[users + 1] - self.start[users]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        chosen = np.repeat(begin - start[:-1], sizes) + np.arange(start[-1])
        return Entries(start, self.key[chosen], np.take(self.codes, chosen, axis=1))

    def renumbered(self, number: NDArray[np.int32]) -> Entries:
        """Those whose key has a new number; ``number`` int32[keys], -1 for keys that go."""
        key = number[self.key]
        kept = key >= 0
        start = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[self.start]
        return Entries(start, key[kept], np.compress(kept, self.codes, axis=1))


def column_of(table: pa.Table, name: str, what: str) -> pa.ChunkedArray:
    """A column of a caller's table.

    Raises:
        SchemaMismatchError: If it is not there.
    """
    if name not in table.column_names:
        raise SchemaMismatchError(
            f"the {what} table has no column {name!r}", expected=name, got=", ".join(table.column_names)
        )
    return table[name]


def encode_table(
    codes: RankCodes,
    schema: FeatureSchema,
    scope: FeatureScope,
    rows: Sequence[int],
    table: pa.Table,
    order: NDArray[np.int64] | None = None,
    threads: int = 1,
) -> NDArray[np.int16]:
    """Codes of one scope's rows from a table: int16[len(rows), table rows], or of some of its rows, in an order.

    Raises:
        SchemaMismatchError: If a feature's column is missing or of a wrong type.
    """
    # Columns that no test looks at need not be there.
    features = [index for index in np.unique(codes.feature) if schema.columns[index].scope == scope]
    out = np.empty((len(rows), table.num_rows if order is None else len(order)), np.int16)

    def encode(index: int) -> None:
        column = schema.columns[index]
        values = read_column(column, column_of(table, column.name, str(scope)))
        first, last = np.searchsorted(
            codes.feature[list(rows)], [index, index + 1]
        )  # rows are sorted by feature
        codes.encode(
            rows[first:last], [index], (values if order is None else values[order])[None], out[first:last]
        )

    if threads == 1 or table.num_rows < _MANY:
        for index in features:
            encode(index)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(encode, features))
    return out


def read_column(column: FeatureColumn, values: pa.ChunkedArray) -> NDArray[np.float32]:
    """What :meth:`FeatureColumn.encode` gives; the usual floats at the speed of memory."""
    if column.vocabulary is not None or values.type not in (pa.float32(), pa.float64()):
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as for XGBoost
            return column.encode(values)
    out, at = np.empty(len(values), np.float32), 0
    for chunk in values.chunks:
        valid, numbers = chunk.buffers()
        bits = np.empty(0, np.uint8) if valid is None else np.frombuffer(valid, np.uint8)
        if len(chunk):
            dtype = values.type.to_pandas_dtype()
            read_floats(np.frombuffer(numbers, dtype), bits, chunk.offset, out[at : at + len(chunk)])
        at += len(chunk)
    return out


def encode_values(
    columns: Sequence[FeatureColumn], values: Sequence[float | str | None]
) -> NDArray[np.float32]:
    """Model input of some values, each of its column: float32[n].

    Raises:
        SchemaMismatchError: If a number was expected and something else came.
    """
    numbers = [_number(column, value) for column, value in zip(columns, values, strict=True)]
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float64).astype(np.float32)


def _number(column: FeatureColumn, value: float | str | None) -> float:
    if value is None:
        return math.nan
    try:
        if column.vocabulary is None:
            return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SchemaMismatchError(
            f"feature {column.name!r} cannot be read as a number",
            expected="a number or null",
            got=repr(value),
        ) from error
    try:
        return column.vocabulary.index(str(value))
    except ValueError:
        return math.nan


def positions(values: pa.Array | pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    """Position of each value among the known ones: int64[n]; -1 where it is not one of them.

    Raises:
        SchemaMismatchError: If values are of a type that cannot be compared with the known ones.
    """
    if values.type != known.type:
        try:
            values = pc.cast(values, known.type)
        except pa.ArrowInvalid as error:
            raise SchemaMismatchError(
                "ids of two types", expected=str(known.type), got=str(values.type)
            ) from error
    found = pc.fill_null(pc.index_in(values, value_set=known, skip_nulls=True), -1)
    return np.asarray(
        found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
    ).astype(np.int64)


def positions_of_runs(values: pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    """:func:`positions` of values most of which equal their neighbour, such as users of sorted rows: sought run by run."""
    found = []
    for chunk in values.chunks:
        runs = pc.run_end_encode(chunk)
        lengths = np.diff(runs.run_ends.to_numpy(), prepend=0)
        found.append(np.repeat(positions(runs.values, known), lengths))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def single(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The same values in one piece."""
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def sort_entries(
    user: NDArray[np.int64],
    key: NDArray[np.int64],
    encode: Callable[[NDArray[np.int64] | None], NDArray[np.int16]] | None,
    users: int,
) -> Entries:
    """Entries by user, in the order given; those of unknown users or keys (-1) are left out.

    Of two entries for one user and key the last counts, because kernels write them in this order.

    Args:
        user: int64[n], position of each entry's user.
        key: int64[n], its group or item.
        encode: Gives int16[rows, m], codes of some entries, int64[m], in that order; of all, as they are, for ``None``.
            ``None``: entries have no codes.
        users: How many there are.
    """
    order = None
    known = (user >= 0) & (key >= 0)
    if not known.all():
        order = np.flatnonzero(known)
        user, key = user[order], key[order]
    if (user[1:] < user[:-1]).any():
        by_user = np.argsort(user, kind="stable")
        order = by_user if order is None else order[by_user]
        user, key = user[by_user], key[by_user]
    start = np.searchsorted(user, np.arange(users + 1)).astype(np.int64)
    codes = np.empty((0, len(key)), np.int16) if encode is None else encode(order)
    return Entries(start, key.astype(np.int32), codes)


def no_entries(users: int, rows: int) -> Entries:
    """No entry for any user."""
    return Entries(np.zeros(users + 1, np.int64), np.zeros(0, np.int32), np.zeros((rows, 0), np.int16))


def check_ids(table: pa.Table, name: str, what: str) -> pa.Array:
    """The id column of users or items: integers as int64, or strings; every id there, and once.

    Raises:
        SchemaMismatchError: Naming what is wrong with it.
    """
    ids = single(column_of(table, name, what))
    if pa.types.is_dictionary(ids.type):
        ids = pc.cast(ids, ids.type.value_type)
    if pa.types.is_integer(ids.type):
        ids = pc.cast(ids, pa.int64())
    elif pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        ids = pc.cast(ids, pa.string())
    else:
        raise SchemaMismatchError(
            f"column {name!r} of the {what} table", expected="int64 or string", got=str(ids.type)
        )
    if ids.null_count:
        raise SchemaMismatchError(
            f"column {name!r} of the {what} table has {ids.null_count} nulls", expected="none"
        )
    if pc.count_distinct(ids).as_py() != len(ids):
        raise SchemaMismatchError(
            f"column {name!r} of the {what} table has an id twice", expected="each id once"
        )
    return ids


def encode_keyed(
    codes: RankCodes,
    schema: FeatureSchema,
    scope: FeatureScope,
    rows: Sequence[int],
    table: pa.Table,
    users: pa.Array,
    keys: pa.Array,
    threads: int,
) -> Entries:
    """Affinity or pair features: a table of ``user_id``, a group or ``item_id``, and the scope's features."""
    key_name = scope.group or ITEM_ID
    user = positions_of_runs(column_of(table, USER_ID, str(scope)), users)
    column = column_of(table, key_name, str(scope))
    key = positions(pc.cast(column, keys.type) if scope.group else column, keys)

    def encode(order: NDArray[np.int64] | None) -> NDArray[np.int16]:
        return encode_table(codes, schema, scope, rows, table, order, threads)

    return sort_entries(user, key, encode, len(users))
