"""The input tables of a block of users: a hash of each user's values as they are, and some users' rows, encoded.

Most users have the very values that they had in an earlier run. Reading hashes tells so, and spares the work of
turning their values into codes and signatures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.schema import ITEM_ID, PAIR, USER, USER_ID, affinity
from materialize.scoring.encode_inputs import check_ids, column_of, positions, positions_of_runs, read_column
from materialize.scoring.kernels_delta import sign_columns, sign_rows
from materialize.scoring.signatures import hashes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from features.schema import FeatureScope
    from materialize.scoring.bound_catalogue import BoundCatalogue
    from materialize.scoring.user_batch import UserBatch


@dataclass(frozen=True)
class KeyedRows:
    """A table of users and groups, or users and items.

    Attributes:
        table: The rows.
        user: int64[n], position of each row's user; -1: not one of them.
        key: int64[n], its group, or its item by row of the catalogue, gone ones after them; -1: not one of them.
    """

    table: pa.Table
    user: NDArray[np.int64]
    key: NDArray[np.int64]

    def some(self, chosen: NDArray[np.bool_]) -> pa.Table:
        """Those rows of known users that are chosen: bool[n]."""
        return self.table.filter(pa.array(chosen & (self.user >= 0)))


@dataclass(frozen=True)
class InputTables:
    """Inputs of U users, as :meth:`BoundCatalogue.top_k` takes them.

    Attributes:
        catalogue: Of this run.
        users, affinity, pairs, latent, exclude, segments, threads: As there.
        gone: Arrow array, ids of items that were in the catalogue of an earlier run.
        entered: int64[n], rows of items that were not.
    """

    catalogue: BoundCatalogue
    users: pa.Table
    affinity: Mapping[str, pa.Table] | None = None
    pairs: pa.Table | None = None
    latent: NDArray[np.float32] | None = None
    exclude: pa.Table | None = None
    segments: NDArray[np.integer[Any]] | None = None
    threads: int | None = None
    gone: pa.Array | None = None
    entered: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @cached_property
    def ids(self) -> pa.Array:
        """Arrow array[U].

        Raises:
            SchemaMismatchError: If an id is missing or there twice.
        """
        return check_ids(self.users, USER_ID, "users")

    def digests(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Two hashes of each user, uint64[U]: over the items of this run, and over those of the earlier one.

        A user whose first hash is that of an earlier run, with the same model, has the same signature. If only the
        second one is, then all that has changed for the user are rows of items that have entered or gone. Only columns
        that the forest tests count, and only rows of items and groups that are known.

        Raises:
            SchemaMismatchError: If a table does not fit.
        """
        now = np.zeros(len(self.ids), np.uint64)
        for values in self._tested(USER, self.users):
            sign_columns(values, now)
        if self.latent is not None:
            sign_columns(np.ascontiguousarray(self.latent, np.float32).view(np.int32).T.copy(), now)
        if self.segments is not None:
            sign_columns(np.asarray(self.segments).astype(np.int32)[None], now)
        signer = self.catalogue.user_signer
        for salt, (column, grouped) in enumerate(self._affinity.items()):
            row = self._hash_rows(salt + 2, grouped, affinity(column), signer.groups[column])
            sign_rows(grouped.user, grouped.key, np.ones(len(signer.groups[column]), np.bool_), row, now)
        before = now.copy()
        here = np.arange(len(self._items)) < len(self.catalogue)
        was = np.ones(len(self._items), np.bool_)
        was[self.entered] = False
        hashes = np.concatenate([signer.items, hashes_of(self._items.slice(len(self.catalogue)))])
        for salt, keyed in enumerate((self._pairs, self._excluded)):
            if keyed is not None:
                row = self._hash_rows(salt, keyed, None if salt else PAIR, hashes)
                sign_rows(keyed.user, keyed.key, here, row, now)
                sign_rows(keyed.user, keyed.key, was, row, before)
        return now, before

    def encode(self, some: NDArray[np.int64] | None = None) -> UserBatch:
        """All users, or some of them, int64[n] ascending, with all that belongs to them.

        Raises:
            SchemaMismatchError: If a table or array does not fit.
        """
        if some is None or len(some) == len(self.ids):
            return self._encode(self.users, self.affinity, self.pairs, self.exclude, self.latent)
        chosen = np.zeros(len(self.ids), np.bool_)
        chosen[some] = True
        return self._encode(
            self.users.take(pa.array(some)),
            {column: keyed.some(chosen[keyed.user]) for column, keyed in self._affinity.items()},
            None if self._pairs is None else self._pairs.some(chosen[self._pairs.user]),
            None if self._excluded is None else self._excluded.some(chosen[self._excluded.user]),
            None if self.latent is None else np.asarray(self.latent)[some],
        )

    def encode_for(self, rows: NDArray[np.int64]) -> UserBatch:
        """All users, as :meth:`BoundCatalogue.narrowed` numbers some rows of the catalogue, int64[n] ascending."""
        wanted = np.zeros(len(self._items) + 1, np.bool_)  # the last place is that of unknown items
        wanted[rows] = True
        pairs, exclude = (
            None if keyed is None else keyed.some(wanted[keyed.key])
            for keyed in (self._pairs, self._excluded)
        )
        batch = self._encode(self.users, self.affinity, pairs, exclude, self.latent)
        return batch.narrowed(rows, len(self.catalogue))

    def _encode(
        self,
        users: pa.Table,
        affinities: Mapping[str, pa.Table] | None,
        pairs: pa.Table | None,
        exclude: pa.Table | None,
        latent: NDArray[np.float32] | None,
    ) -> UserBatch:
        return self.catalogue.encode_users(
            users, affinity=affinities, pairs=pairs, exclude=exclude, latent=latent, threads=self.threads
        )

    @cached_property
    def _affinity(self) -> dict[str, KeyedRows]:
        given = self.affinity or {}
        return {
            column: self._keyed(given[column], column, self.catalogue.groups[column])
            for column in self.catalogue.layout.affinity
            if column in given
        }

    @cached_property
    def _pairs(self) -> KeyedRows | None:
        if self.pairs is None or not self.catalogue.layout.pair:
            return None
        return self._keyed(self.pairs, ITEM_ID, self._items)

    @cached_property
    def _excluded(self) -> KeyedRows | None:
        if self.exclude is None:
            return None
        return self._keyed(self.exclude, ITEM_ID, self._items)

    @cached_property
    def _items(self) -> pa.Array:
        """Ids of the items that count: those of the catalogue, by row, and the gone ones."""
        here = self.catalogue.items_by_row
        return here if self.gone is None else pa.concat_arrays([here, self.gone.cast(here.type)])

    def _keyed(self, table: pa.Table, key: str, known: pa.Array) -> KeyedRows:
        user = positions_of_runs(column_of(table, USER_ID, key), self.ids)
        return KeyedRows(table, user, positions(column_of(table, key, key), known))

    def _tested(self, scope: FeatureScope, table: pa.Table) -> Iterator[NDArray[np.int32]]:
        """The bits of each column of a scope that the forest tests: int32[1, rows]."""
        by_name = {column.name: column for column in self.catalogue.schema.columns}
        for name in self.catalogue.tested(scope):
            yield read_column(by_name[name], column_of(table, name, str(scope))).view(np.int32)[None]

    def _hash_rows(
        self, salt: int, keyed: KeyedRows, scope: FeatureScope | None, hashes: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        row = hashes[keyed.key] ^ np.uint64(salt)
        if scope is not None:
            for values in self._tested(scope, keyed.table):
                sign_columns(values, row)
        return row
