"""Delta runs: lists equal to a full run's, by scoring only what can have changed.

A *signature* is a hash of the codes of a user or an item, so it changes only when some test of the forest can
decide otherwise. From one run to the next:

- a user whose signature changed, or who is new, is scored in full;
- another user's old list is merged with the scores of the items that changed or are new; the list holds more
  than the K entries that are published (*reserve*), so items that drop out rarely force a full row;
- nothing is scored of the rest. A changed model changes everything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mmh3
import numpy as np
import pyarrow as pa

from materialize.scoring.encode_inputs import positions
from materialize.scoring.kernels_delta import merge_lists, sign_columns, sign_entries
from materialize.scoring.top_k import TopK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.bound_catalogue import BoundCatalogue
    from materialize.scoring.pair_scorer import PairScorer
    from materialize.scoring.user_batch import UserBatch


@dataclass(frozen=True)
class Snapshot:
    """What a run leaves for the next one.

    Attributes:
        model: Hash of the forest.
        item_ids: Arrow array[I], in the catalogue's order.
        item_signatures: uint64[I].
        user_signatures: uint64[U], aligned with ``top.user_ids``.
        top: Lists of up to K + reserve entries, all of them certain; the first K are the result. Margins.
        complete: bool[U], lists that hold every item the user may be given.
        k: Entries that are published.
    """

    model: str
    item_ids: pa.Array
    item_signatures: NDArray[np.uint64]
    user_signatures: NDArray[np.uint64]
    top: TopK
    complete: NDArray[np.bool_]
    k: int

    @property
    def published(self) -> TopK:
        """The first K entries: what a full run would give."""
        counts = np.minimum(self.top.counts, self.k).astype(np.int32)
        index, scores = self.top.item_index[:, : self.k], self.top.scores[:, : self.k]
        return TopK(self.top.user_ids, index, self.top.catalogue_ids, scores, counts)


@dataclass(frozen=True)
class DeltaPlan:
    """What a delta run did; positions of users and items in its own tables.

    Attributes:
        full: int64, users that were scored against all items.
        merged: int64, users whose old list was merged with the changed items.
        changed_items: int64, items that changed or are new.
    """

    full: NDArray[np.int64]
    merged: NDArray[np.int64]
    changed_items: NDArray[np.int64]


def run_full(catalogue: BoundCatalogue, users: pa.Table, k: int, reserve: int, **inputs: Any) -> Snapshot:
    """Score everybody; ``inputs`` as in :meth:`BoundCatalogue.top_k`, margins only."""
    top = catalogue.top_k(users, k + reserve, **inputs)
    signed = catalogue.encode_users(users, **_user_inputs(inputs))
    return Snapshot(
        model=_model(catalogue),
        item_ids=catalogue.item_ids,
        item_signatures=_sign_items(catalogue, inputs),
        user_signatures=_sign_users(catalogue, signed, inputs),
        top=top,
        complete=top.counts < k + reserve,
        k=k,
    )


def run_delta(
    scorer: PairScorer,
    catalogue: BoundCatalogue,
    items: pa.Table,
    previous: Snapshot,
    users: pa.Table,
    *,
    item_latent: NDArray[np.float32] | None = None,
    **inputs: Any,
) -> tuple[Snapshot, DeltaPlan]:
    """Lists equal to those of :func:`run_full` with the same arguments, and what was done for them.

    Args:
        scorer: The model.
        catalogue: It, bound to ``items`` (and ``item_latent``).
        items: The items.
        previous: The last run's snapshot.
        users: The users, in any order.
        item_latent: float32[I, d], if the catalogue has latent vectors.
        inputs: As in :meth:`BoundCatalogue.top_k`; margins only.
    """
    batch = catalogue.encode_users(users, **_user_inputs(inputs))
    item_signatures, user_signatures = _sign_items(catalogue, inputs), _sign_users(catalogue, batch, inputs)
    length = previous.top.item_index.shape[1]
    was = _find(batch.ids, previous.top.user_ids)
    new_place = _find(previous.item_ids, catalogue.item_ids)
    here = new_place >= 0
    new_place[here] = np.where(
        previous.item_signatures[here] == item_signatures[new_place[here]], new_place[here], -1
    )
    kept = new_place[new_place >= 0]
    # Ties go by the order of the items: lists can be merged only if those that stayed kept theirs.
    comparable = previous.model == _model(catalogue) and bool((np.diff(kept) > 0).all())
    same = (was >= 0) & comparable
    same[same] = previous.user_signatures[was[same]] == user_signatures[same]
    changed = np.setdiff1d(np.arange(len(catalogue)), kept) if comparable else np.arange(len(catalogue))

    index, scores = np.empty((len(batch), length), np.int32), np.empty((len(batch), length), np.float32)
    counts = np.full(len(batch), -1, np.int32)
    complete = np.zeros(len(batch), np.bool_)
    merge = np.flatnonzero(same)
    if len(merge):
        column = _changed_scores(scorer, items, item_latent, changed, users, inputs)
        old = previous.top
        merge_lists(
            merge, was[merge], old.item_index, old.scores, old.counts, previous.complete, new_place.astype(np.int32),
            changed.astype(np.int32), column, previous.k, index, scores, counts, complete,
        )  # fmt: skip
    full = np.flatnonzero(counts < 0)
    if len(full):
        top = catalogue.top_k(users.take(pa.array(full)), length, **_of_users(inputs, full))
        index[full], scores[full], counts[full] = top.item_index, top.scores, top.counts
        complete[full] = top.counts < length
    snapshot = Snapshot(
        model=_model(catalogue),
        item_ids=catalogue.item_ids,
        item_signatures=item_signatures,
        user_signatures=user_signatures,
        top=TopK(batch.ids, index, catalogue.item_ids, scores, counts),
        complete=complete,
        k=previous.k,
    )
    return snapshot, DeltaPlan(full, np.setdiff1d(merge, full), changed)


def _find(ids: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    return positions(ids, known) if ids.type == known.type else np.full(len(ids), -1, np.int64)


def _changed_scores(
    scorer: PairScorer,
    items: pa.Table,
    latent: NDArray[np.float32] | None,
    changed: NDArray[np.int64],
    users: pa.Table,
    inputs: dict[str, Any],
) -> NDArray[np.float32]:
    """Scores of the changed items, float32[U, C]; -inf where a user must not get one."""
    if not len(changed):
        return np.empty((users.num_rows, 0), np.float32)
    some = scorer.bind(items.take(pa.array(changed)), None if latent is None else latent[changed])
    options = _user_inputs(inputs)
    exclude = options.pop("exclude", None)
    column = some.score(users, threads=inputs.get("threads"), **options)
    if exclude is not None:
        user, item = (
            _find(exclude["user_id"], users["user_id"].combine_chunks()),
            _find(exclude["item_id"], some.item_ids),
        )
        real = (user >= 0) & (item >= 0)
        column[user[real], item[real]] = -np.inf
    if inputs.get("eligible") is not None:
        allowed = np.atleast_2d(inputs["eligible"])[:, changed]
        segments = inputs.get("segments")
        column[~allowed[np.zeros(len(column), np.int64) if segments is None else segments]] = -np.inf
    return column


def _user_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: inputs[name]
        for name in ("affinity", "pairs", "latent", "exclude")
        if inputs.get(name) is not None
    }


def _of_users(inputs: dict[str, Any], users: NDArray[np.int64]) -> dict[str, Any]:
    """Inputs of some users; tables are left as they are, since rows of others are ignored."""
    aligned = {name: inputs[name][users] for name in ("latent", "segments") if inputs.get(name) is not None}
    return {**inputs, **aligned}


def _hashes(values: pa.Array) -> NDArray[np.uint64]:
    """A stable hash of each id or group, and 0 for one more key: no group."""
    texts = [str(value) for value in values.to_pylist()]
    return np.array([mmh3.hash64(text, signed=False)[0] for text in texts] + [0], np.uint64)


def _sign_items(catalogue: BoundCatalogue, inputs: dict[str, Any]) -> NDArray[np.uint64]:
    signature = np.zeros(len(catalogue), np.uint64)
    sign_columns(np.ascontiguousarray(catalogue.item_codes.T), signature)
    for column, values in catalogue.groups.items():
        sign_columns(_hashes(values)[catalogue.group_codes[column]].view(np.int64)[None], signature)
    if catalogue.item_latent is not None:
        sign_columns(np.ascontiguousarray(catalogue.item_latent.view(np.int32).T), signature)
    out = np.empty_like(signature)
    out[catalogue.order] = signature
    if inputs.get("eligible") is not None:
        sign_columns(np.atleast_2d(inputs["eligible"]).astype(np.int32), out)
    return out


def _sign_users(catalogue: BoundCatalogue, batch: UserBatch, inputs: dict[str, Any]) -> NDArray[np.uint64]:
    signature = np.zeros(len(batch), np.uint64)
    sign_columns(batch.codes, signature)
    missing = catalogue.codes.missing
    for salt, (column, entries) in enumerate(batch.affinity.items()):
        rows = list(catalogue.layout.affinity[column])
        known = _hashes(catalogue.groups[column])
        sign_entries(salt + 2, entries.start, entries.key, known, entries.codes, missing[rows], signature)
    by_row = _hashes(catalogue.item_ids)[np.append(catalogue.order, len(catalogue))]
    for salt, entries in enumerate((batch.pairs, batch.excluded)):
        rows = list(catalogue.layout.pair) if salt == 0 else []
        sign_entries(salt, entries.start, entries.key, by_row, entries.codes, missing[rows], signature)
    if batch.latent is not None:
        sign_columns(np.ascontiguousarray(batch.latent.view(np.int32).T), signature)
    if inputs.get("segments") is not None:
        sign_columns(np.asarray(inputs["segments"]).astype(np.int32)[None], signature)
    return signature


def _model(catalogue: BoundCatalogue) -> str:
    digest = hashlib.sha256(
        f"{catalogue.objective} {catalogue.base_margin!r} {catalogue.schema.hash}".encode()
    )
    for array in (*catalogue.forest.arrays.values(), *catalogue.codes.arrays.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
