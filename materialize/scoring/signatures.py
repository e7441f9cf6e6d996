"""Signatures of users and items: hashes that change only when some test of the forest may decide otherwise.

They are made of rank codes, so a value that crosses no threshold changes nothing, and of ids and names rather
than positions, so they can be compared from run to run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import mmh3
import numpy as np
import pyarrow as pa

from features.errors import SchemaMismatchError
from features.schema import ITEM_ID
from materialize.scoring.checked_file import read_checked, write_checked
from materialize.scoring.encode_inputs import single
from materialize.scoring.kernels_delta import sign_columns, sign_entries

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from materialize.scoring.bound_catalogue import BoundCatalogue
    from materialize.scoring.user_batch import UserBatch

_KIND = "signed items 1"


@dataclass(frozen=True)
class SignedItems:
    """What a run leaves about its items and its model for the next one: one small file per generation.

    Attributes:
        model: Hash of the forest, its schema and its objective.
        ids: Arrow array[I], in the catalogue's order.
        signatures: uint64[I], of codes, groups, latent vector and eligibility.
    """

    model: str
    ids: pa.Array
    signatures: NDArray[np.uint64]

    @classmethod
    def of(cls, catalogue: BoundCatalogue, eligible: NDArray[np.bool_] | None = None) -> SignedItems:
        """Sign the items of a catalogue; ``eligible`` as in :meth:`BoundCatalogue.top_k`.

        Raises:
            SchemaMismatchError: If the mask does not fit the catalogue.
        """
        signature = np.zeros(len(catalogue), np.uint64)
        sign_columns(np.ascontiguousarray(catalogue.item_codes.T), signature)
        for column, values in catalogue.groups.items():
            sign_columns(hashes_of(values)[catalogue.group_codes[column]].view(np.int64)[None], signature)
        if catalogue.item_latent is not None:
            sign_columns(np.ascontiguousarray(catalogue.item_latent.view(np.int32).T), signature)
        signatures = np.empty_like(signature)
        signatures[catalogue.order] = signature
        if eligible is not None:
            mask = np.atleast_2d(eligible)
            if mask.shape[1] != len(catalogue):
                raise SchemaMismatchError(
                    "the eligibility mask does not fit the catalogue",
                    expected=f"{len(catalogue)} items",
                    got=str(mask.shape),
                )
            sign_columns(mask.astype(np.int32), signatures)
        return cls(_model(catalogue), catalogue.item_ids, signatures)

    @cached_property
    def digest(self) -> str:
        """Names the items and the model; a snapshot keeps it, so that it is never read with others."""
        parts = [self.model, str(self.ids.type), *map(str, self.ids.to_pylist())]
        state = hashlib.sha256("\0".join(parts).encode())
        state.update(self.signatures.tobytes())
        return state.hexdigest()

    def save(self, file: Path) -> None:
        """Write it to a file.

        Raises:
            StorageError: If it cannot be written.
        """
        table = pa.table({ITEM_ID: self.ids, "signature": self.signatures})
        write_checked(file, _KIND, table, {"model": self.model})

    @classmethod
    def load(cls, file: Path) -> SignedItems:
        """Read what :meth:`save` wrote.

        Raises:
            StorageError: If the file is not there, damaged or of another version.
        """
        table, facts = read_checked(file, _KIND)
        return cls(facts["model"], single(table[ITEM_ID]), table["signature"].to_numpy())


@dataclass(frozen=True)
class UserSigner:
    """Signs users of one catalogue; keeps the hashes of ids and groups that this takes."""

    catalogue: BoundCatalogue

    def sign(self, batch: UserBatch, segments: NDArray[np.integer] | None) -> NDArray[np.uint64]:
        """uint64[U]: of features, affinities, pairs, exclusions, latent vector and segment."""
        catalogue = self.catalogue
        missing = catalogue.codes.missing
        signature = np.zeros(len(batch), np.uint64)
        sign_columns(batch.codes, signature)
        for salt, (column, entries) in enumerate(batch.affinity.items()):
            rows = list(catalogue.layout.affinity[column])
            sign_entries(
                salt + 2,
                entries.start,
                entries.key,
                self.groups[column],
                entries.codes,
                missing[rows],
                signature,
            )
        for salt, entries in enumerate((batch.pairs, batch.excluded)):
            rows = list(catalogue.layout.pair) if salt == 0 else []
            sign_entries(
                salt, entries.start, entries.key, self.items, entries.codes, missing[rows], signature
            )
        if batch.latent is not None:
            sign_columns(np.ascontiguousarray(batch.latent.view(np.int32).T), signature)
        if segments is not None:
            sign_columns(np.asarray(segments).astype(np.int32)[None], signature)
        return signature

    @cached_property
    def items(self) -> NDArray[np.uint64]:
        """By row of the catalogue: a stable hash of the item's id, at least as many as rows."""
        return hashes_of(self.catalogue.item_ids)[self.catalogue.order]

    @cached_property
    def groups(self) -> dict[str, NDArray[np.uint64]]:
        """By group column: a stable hash of each group, and one more."""
        return {column: hashes_of(values) for column, values in self.catalogue.groups.items()}


def hashes_of(values: pa.Array) -> NDArray[np.uint64]:
    """A stable hash of each id or group, and 0 for one more key: no group."""
    texts = [str(value) for value in values.to_pylist()]
    return np.array([mmh3.hash64(text, signed=False)[0] for text in texts] + [0], np.uint64)


def _model(catalogue: BoundCatalogue) -> str:
    facts = f"{catalogue.objective} {catalogue.base_margin!r} {catalogue.schema.hash}"
    digest = hashlib.sha256(facts.encode())
    for array in (*catalogue.forest.arrays.values(), *catalogue.codes.arrays.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
