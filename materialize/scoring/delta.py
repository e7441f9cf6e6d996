"""Delta runs: lists equal to a full run's, by scoring only what can have changed.

From one run to the next:

- a user whose signature changed, or who is new, is scored in full;
- another user's old list is merged with the scores of the items that changed or are new; the list holds more
  than the K entries that are published (*reserve*), so items that drop out rarely force a full row;
- nothing is scored of the rest. A changed model changes everything.

How a caller uses it. A **full generation** leaves one file of items, written once, and one per block of users::

    signed = SignedItems.of(catalogue)                              # once per process
    signed.save(folder / "items.arrow")                             # once
    snapshot = run_full(catalogue, signed, users, k, reserve, affinity=…, pairs=…, exclude=…)      # each block
    snapshot.save(folder / f"block-{n}.arrow", label)
    snapshot.published(catalogue.item_ids)                          # TopK: the rows to write

A **delta generation** on it leaves the same files, and gives only what differs::

    delta = DeltaScorer.of(catalogue, SignedItems.load(parent / "items.arrow"))                    # once per process
    delta.now.save(folder / "items.arrow")                          # once
    previous = Snapshot.load(parent / f"block-{n}.arrow", parent_label)
    done = delta.run(previous, users, k, reserve, affinity=…, pairs=…, exclude=…)                  # each block
    done.snapshot.save(folder / f"block-{n}.arrow", label)
    done.changed                    # TopK: lists of users that are new or whose list differs, to be written
    done.gone                       # ids of users that had a list and have none now, to be removed

``catalogue`` is always the bound catalogue of the run at hand (current model, current candidate items). Blocks must
hold the same ranges of users as the parent's: a delta generation takes over its number of blocks. A user that the
snapshot has and ``users`` lacks is *gone*. Features, affinities, pairs and exclusions are given whole, as to a full
run: what did not change is found out here. ``plan`` tells beforehand how much there is to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.errors import SchemaMismatchError
from materialize.scoring.block_threads import each_block
from materialize.scoring.encode_inputs import positions
from materialize.scoring.kernels_delta import differing, merge_lists, touched
from materialize.scoring.kernels_selection import hide
from materialize.scoring.kernels_simd import LANES
from materialize.scoring.signatures import SignedItems
from materialize.scoring.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.block_scorer import BlockScorer, Workspace
    from materialize.scoring.bound_catalogue import BoundCatalogue
    from materialize.scoring.top_k import TopK
    from materialize.scoring.user_batch import UserBatch

_MOST_CHANGED = 0.3
"""With a larger share of changed items, scoring everybody in full is cheaper than scoring the items and merging."""


@dataclass(frozen=True)
class DeltaPlan:
    """What a delta run will do for U users; ascending positions, which together are all of them.

    Attributes:
        full: int64, to be scored against all items: they changed, or are new, or the model is another.
        merged: int64, whose old list is merged with the scores of changed items, or loses items.
        unchanged: int64, who keep their old list.
    """

    full: NDArray[np.int64]
    merged: NDArray[np.int64]
    unchanged: NDArray[np.int64]


@dataclass(frozen=True)
class DeltaRun:
    """What a delta run gives for one block of users.

    Attributes:
        changed: Lists (the first k entries) of the users that are new, or whose list differs from the old one in an
            item, a score or its length; empty lists are not in it.
        gone: Arrow array, ids of users that had a list and are no longer there, or have an empty list now.
        snapshot: Of all users, for the next run.
        plan: What was done.
        exhausted: int64, users of ``plan.merged`` that were scored in full after all, because fewer than k entries
            were certain.
    """

    changed: TopK
    gone: pa.Array
    snapshot: Snapshot
    plan: DeltaPlan
    exhausted: NDArray[np.int64]


def run_full(
    catalogue: BoundCatalogue, signed: SignedItems, users: pa.Table, k: int, reserve: int, **inputs: Any
) -> Snapshot:
    """Score everybody, so that the next run can be a delta.

    Args:
        catalogue: The model and its items.
        signed: They, signed with the same ``eligible``.
        users: ``user_id`` and the user features.
        k: Entries that are published.
        reserve: Entries beyond them that are kept for the next run.
        inputs: ``affinity``, ``pairs``, ``latent``, ``exclude``, ``eligible``, ``segments`` and ``threads`` as in
            :meth:`BoundCatalogue.top_k`. Scores are margins.

    Raises:
        SchemaMismatchError: If a table or array does not fit.
    """
    batch, masks = _encode(catalogue, users, inputs)
    top = catalogue.top_k_encoded(batch, k + reserve, **masks)
    return Snapshot(
        items=signed.digest,
        user_ids=batch.ids,
        signatures=catalogue.user_signer.sign(batch, inputs.get("segments")),
        item_index=top.item_index,
        scores=top.scores,
        counts=top.counts,
        complete=top.counts < k + reserve,
        k=k,
    )


@dataclass(frozen=True)
class DeltaScorer:
    """A catalogue, and how its items differ from an earlier run's; made once, used for all blocks.

    Attributes:
        catalogue: Of this run.
        before, now: The items of the earlier run and of this one.
        eligible: Of this run, or ``None``.
        moved: int32[old items], position of the item with the same id; -1: gone.
        place: int32[old items], likewise, and -1 for items that changed.
        rows: int64[C], rows of the catalogue whose items changed or are new, ascending.
        comparable: Whether old lists can be of any use; otherwise everybody is scored in full.
        narrowed: Scores the changed items.
    """

    catalogue: BoundCatalogue
    before: SignedItems
    now: SignedItems
    eligible: NDArray[np.bool_] | None
    moved: NDArray[np.int32]
    place: NDArray[np.int32]
    rows: NDArray[np.int64]
    comparable: bool
    narrowed: BlockScorer

    @classmethod
    def of(
        cls, catalogue: BoundCatalogue, before: SignedItems, eligible: NDArray[np.bool_] | None = None
    ) -> DeltaScorer:
        """Compare a catalogue with the items of an earlier run, and bind the changed ones.

        Args:
            catalogue: Of this run.
            before: What the earlier run left.
            eligible: As in :meth:`BoundCatalogue.top_k`; for all blocks.
        """
        now = SignedItems.of(catalogue, eligible)
        moved = _find(before.ids, now.ids)
        place = moved.copy()
        here = moved >= 0
        place[here] = np.where(before.signatures[here] == now.signatures[moved[here]], moved[here], -1)
        kept = place[place >= 0]
        changed = np.ones(len(catalogue), np.bool_)
        changed[kept] = False
        # Ties go by the order of the items: lists can be merged only if those that stayed kept theirs.
        in_order = bool((np.diff(kept) > 0).all())
        comparable = before.model == now.model and in_order and changed.mean() <= _MOST_CHANGED
        rows = np.flatnonzero(changed[catalogue.order]) if comparable else np.empty(0, np.int64)
        return cls(
            catalogue=catalogue,
            before=before,
            now=now,
            eligible=eligible,
            moved=moved.astype(np.int32),
            place=place.astype(np.int32),
            rows=rows,
            comparable=comparable,
            narrowed=catalogue.narrowed(rows),
        )

    @property
    def changed_items(self) -> pa.Array:
        """Ids of the items that changed or are new; of none if old lists are of no use."""
        return self.catalogue.item_ids.take(pa.array(np.sort(self.catalogue.order[self.rows])))

    def plan(self, previous: Snapshot, users: pa.Table, **inputs: Any) -> DeltaPlan:
        """What :meth:`run` would do; arguments as there."""
        batch, _ = _encode(self.catalogue, users, inputs)
        return self._plan(previous, batch, self.catalogue.user_signer.sign(batch, inputs.get("segments")))[0]

    def run(self, previous: Snapshot, users: pa.Table, k: int, reserve: int, **inputs: Any) -> DeltaRun:
        """Lists equal to those of :func:`run_full` with the same arguments.

        Args:
            previous: What the earlier run left of the same block of users.
            users: The users there are now, in any order; results come in it.
            k: Entries that are published.
            reserve: Entries beyond them that are kept for the next run.
            inputs: As in :func:`run_full`, but ``eligible``, which :meth:`of` has.

        Raises:
            SchemaMismatchError: If a table or array does not fit, or the snapshot is of another run than the items.
        """
        if previous.items != self.before.digest:
            raise SchemaMismatchError(
                "the snapshot is of another run than the items it is to be compared with",
                expected=f"items {self.before.digest[:12]}…",
                got=f"{previous.items[:12]}…",
                fix="take both from one generation",
            )
        batch, masks = _encode(self.catalogue, users, {**inputs, "eligible": self.eligible})
        signatures = self.catalogue.user_signer.sign(batch, inputs.get("segments"))
        plan, was = self._plan(previous, batch, signatures)
        length = k + reserve
        index, scores = np.empty((len(batch), length), np.int32), np.empty((len(batch), length), np.float32)
        counts, complete = np.full(len(batch), -1, np.int32), np.zeros(len(batch), np.bool_)
        snapshot = Snapshot(self.now.digest, batch.ids, signatures, index, scores, counts, complete, k)
        differs = np.empty(len(batch), np.bool_)

        old = was.copy()
        old[plan.full] = -1
        if len(plan.full) < len(batch):
            self._merge(previous, batch, old, masks, snapshot, differs)
        full = np.flatnonzero(counts < 0)
        if len(full):
            top = self.catalogue.top_k_encoded(batch.take(full), length, **_of_users(masks, full))
            index[full], scores[full], counts[full] = top.item_index, top.scores, top.counts
            complete[full] = top.counts < length
            differing(
                full, was[full], previous.item_index, previous.scores, previous.counts, previous.k, self.moved, index,
                scores, counts, k, differs,
            )  # fmt: skip
        changed = snapshot.published(self.catalogue.item_ids, np.flatnonzero(differs & (counts > 0)))
        had_list = previous.user_ids.filter(pa.array(previous.counts > 0))
        have_list = batch.ids.filter(pa.array(counts > 0))
        return DeltaRun(
            changed=changed,
            gone=had_list.filter(pa.array(_find(had_list, have_list) < 0)),
            snapshot=snapshot,
            plan=plan,
            exhausted=np.setdiff1d(full, plan.full, assume_unique=True),
        )

    def _plan(
        self, previous: Snapshot, batch: UserBatch, signatures: NDArray[np.uint64]
    ) -> tuple[DeltaPlan, NDArray[np.int64]]:
        """The plan, and int64[U]: where each user is in the snapshot, or -1."""
        was = _find(batch.ids, previous.user_ids)
        same = (was >= 0) & self.comparable
        same[same] = previous.signatures[was[same]] == signatures[same]
        merged = same.copy()
        if not len(self.rows):
            loses = np.empty(len(previous), np.bool_)
            touched(previous.item_index, previous.counts, self.place, loses)
            merged[same] = loses[was[same]]
        return DeltaPlan(*(np.flatnonzero(rows) for rows in (~same, merged, same & ~merged))), was

    def _merge(
        self,
        previous: Snapshot,
        batch: UserBatch,
        was: NDArray[np.int64],
        masks: dict[str, Any],
        out: Snapshot,
        differs: NDArray[np.bool_],
    ) -> None:
        """Write the lists of the users that were somewhere, from their old ones, and whether they differ."""
        changed = self.catalogue.order[self.rows]
        few = batch.narrowed(self.rows, len(self.catalogue))
        allowed, segment = self.catalogue.allowed_rows(self.eligible, masks.get("segments"), len(batch))
        allowed = np.ascontiguousarray(allowed[:, self.rows])
        segment = np.append(segment, np.zeros(LANES, np.int32))  # for the lanes of the last block
        hides = len(allowed) > 0 or len(few.excluded.key) > 0

        def work(space: Workspace, first: int, last: int) -> None:
            block = self.narrowed.score(few, first, last, space) if len(changed) else space.score
            if hides:
                inside = segment[first : first + LANES]
                hide(block, few.excluded.start[first : last + 1], few.excluded.key, allowed, inside)
            merge_lists(
                first, last, was, previous.item_index, previous.scores, previous.counts, previous.complete,
                self.place, changed, block, out.k, out.item_index, out.scores, out.counts, out.complete,
                previous.k, self.moved, differs,
            )  # fmt: skip

        each_block(self.narrowed, len(batch), work, masks.get("threads"))


def _encode(
    catalogue: BoundCatalogue, users: pa.Table, inputs: dict[str, Any]
) -> tuple[UserBatch, dict[str, Any]]:
    """Encoded users, and the arguments of :meth:`BoundCatalogue.top_k_encoded`."""
    masks: dict[str, Any] = {
        name: inputs[name] for name in ("eligible", "segments", "threads") if name in inputs
    }
    tables = {name: value for name, value in inputs.items() if name not in masks}
    return catalogue.encode_users(users, threads=inputs.get("threads"), **tables), masks


def _of_users(masks: dict[str, Any], users: NDArray[np.int64]) -> dict[str, Any]:
    segments = masks.get("segments")
    return {**masks, "segments": None if segments is None else np.asarray(segments)[users]}


def _find(ids: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """Position of each id among the known ones; -1: it is not one of them, or all are of another type."""
    if ids.type != known.type:
        return np.full(len(ids), -1, np.int64)
    return np.arange(len(ids)) if ids.equals(known) else positions(ids, known)
