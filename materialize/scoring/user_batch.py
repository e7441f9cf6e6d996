"""Users in a catalogue's numbering: tables, or one user's values, become codes and entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.errors import NotFoundError, SchemaMismatchError
from features.schema import ITEM_ID, PAIR, USER, USER_ID, FeatureSchema, FeatureScope, affinity
from materialize.scoring.encode_inputs import (
    Entries,
    check_ids,
    column_of,
    encode_keyed,
    encode_table,
    encode_values,
    no_entries,
    positions,
    sort_entries,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.rank_codes import RankCodes

    Float32 = NDArray[np.float32]
    Value = float | str | None
    Keyed = tuple[Sequence[object], Mapping[str, Sequence[Value]]]
    """Groups or item ids, and the values of features, aligned with them."""


@dataclass(frozen=True)
class UserBatch:
    """U users; entries are sorted by user.

    Attributes:
        ids: Arrow array[U].
        codes: int16[user rows, U].
        affinity: By group column; keys are groups.
        pairs: Keys are items.
        excluded: Keys are items; without codes.
        latent: float32[U, d], or ``None``.
    """

    ids: pa.Array
    codes: NDArray[np.int16]
    affinity: dict[str, Entries]
    pairs: Entries
    excluded: Entries
    latent: Float32 | None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, users: NDArray[np.int64]) -> UserBatch:
        """Some of the users, int64[n], in that order."""
        return UserBatch(
            self.ids.take(pa.array(users)),
            np.take(self.codes, users, axis=1),
            {column: entries.take(users) for column, entries in self.affinity.items()},
            self.pairs.take(users),
            self.excluded.take(users),
            None if self.latent is None else self.latent[users],
        )

    def narrowed(self, rows: NDArray[np.int64], items: int) -> UserBatch:
        """The users as :meth:`BoundCatalogue.narrowed` numbers the items; ``items`` is how many there were."""
        number = np.full(items, -1, np.int32)
        number[rows] = np.arange(len(rows), dtype=np.int32)
        return replace(self, pairs=self.pairs.renumbered(number), excluded=self.excluded.renumbered(number))


@dataclass(frozen=True)
class BatchEncoder:
    """What a catalogue knows that turns users into codes.

    Attributes:
        schema: The model's columns.
        codes, layout: Rows of codes and where they live.
        item_ids: Arrow array[I], by row.
        groups: Values of each group column.
    """

    schema: FeatureSchema
    codes: RankCodes
    layout: CodeLayout
    item_ids: pa.Array
    groups: dict[str, pa.Array]

    def tables(
        self,
        users: pa.Table,
        affinities: Mapping[str, pa.Table] | None,
        pairs: pa.Table | None,
        latent: Float32 | None,
        exclude: pa.Table | None,
        threads: int,
    ) -> UserBatch:
        """A batch from tables; see :meth:`BoundCatalogue.top_k`.

        Raises:
            SchemaMismatchError: If a table or array does not fit.
        """
        ids = check_ids(users, USER_ID, "users")
        codes = encode_table(self.codes, self.schema, USER, self.layout.user, users, threads=threads)
        by_column = {}
        for column, rows in self.layout.affinity.items():
            table = (affinities or {}).get(column)
            by_column[column] = (
                no_entries(len(ids), len(rows))
                if table is None
                else encode_keyed(
                    self.codes, self.schema, affinity(column), rows, table, ids, self.groups[column], threads
                )
            )
        paired, excluded = no_entries(len(ids), len(self.layout.pair)), no_entries(len(ids), 0)
        if pairs is not None and self.layout.pair:
            paired = encode_keyed(
                self.codes, self.schema, PAIR, self.layout.pair, pairs, ids, self.item_ids, threads
            )
        if exclude is not None:
            user = positions(column_of(exclude, USER_ID, "exclude"), ids)
            item = positions(column_of(exclude, ITEM_ID, "exclude"), self.item_ids)
            excluded = sort_entries(user, item, None, len(ids))
        if latent is not None:
            latent = _latent(latent, len(ids))
        return UserBatch(ids, codes, by_column, paired, excluded, latent)

    def one(
        self,
        features: Mapping[str, Value],
        affinities: Mapping[str, Keyed] | None,
        pairs: Keyed | None,
        latent: Float32 | None,
        exclude: Sequence[object] | None,
    ) -> UserBatch:
        """A batch of one user, whose id is null, from plain values; a feature that is absent is missing.

        Raises:
            SchemaMismatchError: If a value or array does not fit.
        """
        mine = [index for index, column in enumerate(self.schema.columns) if column.scope == USER]
        columns = [self.schema.columns[index] for index in mine]
        values = encode_values(columns, [features.get(column.name) for column in columns])
        by_column = {}
        for column, rows in self.layout.affinity.items():
            by_column[column] = no_entries(1, len(rows))
            if affinities and column in affinities:
                by_column[column] = self._keyed(
                    affinity(column), rows, affinities[column], self.groups[column]
                )
        paired, excluded = no_entries(1, len(self.layout.pair)), no_entries(1, 0)
        if pairs is not None and self.layout.pair:
            paired = self._keyed(PAIR, self.layout.pair, pairs, self.item_ids)
        if exclude is not None:
            excluded = self._keyed(PAIR, (), (exclude, {}), self.item_ids)
        if latent is not None:
            latent = _latent(np.atleast_2d(latent), 1)
        codes = self.codes.encode(self.layout.user, mine, values[:, None])
        return UserBatch(pa.nulls(1), codes, by_column, paired, excluded, latent)

    def row_of(self, item_id: object) -> int:
        """Row of an item.

        Raises:
            NotFoundError: If it is not in the catalogue.
        """
        key = self._keyed(PAIR, (), ([item_id], {}), self.item_ids).key
        if not len(key):
            raise NotFoundError(f"item {item_id!r} is not in the catalogue")
        return int(key[0])

    def _keyed(self, scope: FeatureScope, rows: Sequence[int], keyed: Keyed, known: pa.Array) -> Entries:
        keys, columns = keyed
        features = [i for i, c in enumerate(self.schema.columns) if c.scope == scope and c.name in columns]
        values = np.empty((len(features), len(keys)), np.float32)
        for row, index in zip(values, features, strict=True):
            column = self.schema.columns[index]
            given = columns[column.name]
            if len(given) != len(keys):
                raise SchemaMismatchError(
                    f"values of feature {column.name!r} do not fit their keys",
                    expected=f"{len(keys)} values",
                    got=str(len(given)),
                )
            row[:] = encode_values([column] * len(given), given)
        try:
            key = positions(pa.array(keys, known.type), known)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SchemaMismatchError("ids of two types", expected=str(known.type), got=str(error)) from error

        def encode(order: NDArray[np.int64] | None) -> NDArray[np.int16]:
            return self.codes.encode(
                rows, features, values if order is None else np.take(values, order, axis=1)
            )

        return sort_entries(np.zeros(len(key), np.int64), key, encode, 1)


def _latent(latent: Float32, users: int) -> Float32:
    latent = np.ascontiguousarray(latent, np.float32)
    if latent.ndim != 2 or len(latent) != users:
        raise SchemaMismatchError(
            "latent vectors do not fit the users", expected=f"float32[{users}, d]", got=str(latent.shape)
        )
    if not np.isfinite(latent).all():
        raise SchemaMismatchError("a latent vector has a NaN or an infinity", expected="finite numbers")
    return latent
