"""Delta runs: lists equal to a full run's, by scoring only what can have changed.

From one run to the next:

- a user whose values are those of the earlier run, item by item, is known by a hash of them (*digest*);
- another user whose signature changed, or who is new, is scored in full;
- the others' old lists are merged with the scores of the items that changed or are new; a list holds more than
  the K entries that are published (*reserve*), so items that drop out rarely force a full row;
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
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.errors import SchemaMismatchError
from materialize.scoring.block_threads import each_block
from materialize.scoring.encode_inputs import positions
from materialize.scoring.input_tables import InputTables
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
    tables, masks = _split(catalogue, users, inputs)
    batch = tables.encode()
    top = catalogue.top_k_encoded(batch, k + reserve, **masks)
    return Snapshot(
        items=signed.digest,
        user_ids=batch.ids,
        digests=tables.digests()[0],
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

    @cached_property
    def _moves(self) -> dict[str, Any]:
        """Items that have gone and entered, as :class:`InputTables` asks for them."""
        if not self.comparable:
            return {}
        here = np.zeros(len(self.catalogue), np.bool_)
        here[self.moved[self.moved >= 0]] = True
        return {
            "gone": self.before.ids.filter(pa.array(self.moved < 0)),
            "entered": np.flatnonzero(~here[self.catalogue.order]),
        }

    @property
    def changed_items(self) -> pa.Array:
        """Ids of the items that changed or are new; of none if old lists are of no use."""
        return self.catalogue.item_ids.take(pa.array(np.sort(self.catalogue.order[self.rows])))

    def plan(self, previous: Snapshot, users: pa.Table, **inputs: Any) -> DeltaPlan:
        """What :meth:`run` would do; arguments as there."""
        return self._compare(previous, _split(self.catalogue, users, inputs, **self._moves)[0]).plan

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
        tables, masks = _split(self.catalogue, users, {**inputs, "eligible": self.eligible}, **self._moves)
        found = self._compare(previous, tables)
        plan, was, ids = found.plan, found.was, tables.ids
        length = k + reserve
        index, scores = np.empty((len(ids), length), np.int32), np.empty((len(ids), length), np.float32)
        counts, complete = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.bool_)
        snapshot = Snapshot(
            self.now.digest, ids, found.digests, found.signatures, index, scores, counts, complete, k
        )
        differs = np.empty(len(ids), np.bool_)

        old = was.copy()
        old[plan.full] = -1
        if len(plan.full) < len(ids):
            self._merge(previous, tables, old, masks, snapshot, differs)
        full = np.flatnonzero(counts < 0)
        place = np.full(len(ids), -1, np.int64)
        place[found.others] = np.arange(len(found.others))
        for part, encoded in ((full[place[full] >= 0], True), (full[place[full] < 0], False)):
            if len(part):
                batch = found.batch.take(place[part]) if encoded else tables.encode(part)
                top = self.catalogue.top_k_encoded(batch, length, **_of_users(masks, part))
                index[part], scores[part], counts[part] = top.item_index, top.scores, top.counts
        complete[full] = counts[full] < length
        differing(
            full, was[full], previous.item_index, previous.scores, previous.counts, previous.k, self.moved, index,
            scores, counts, k, differs,
        )  # fmt: skip
        changed = snapshot.published(self.catalogue.item_ids, np.flatnonzero(differs & (counts > 0)))
        had_list = previous.user_ids.filter(pa.array(previous.counts > 0))
        have_list = ids.filter(pa.array(counts > 0))
        return DeltaRun(
            changed=changed,
            gone=had_list.filter(pa.array(_find(had_list, have_list) < 0)),
            snapshot=snapshot,
            plan=plan,
            exhausted=np.setdiff1d(full, plan.full, assume_unique=True),
        )

    def _compare(self, previous: Snapshot, tables: InputTables) -> _Comparison:
        """Find out who changed: those whose values are others are encoded, and their signatures compared."""
        was, (digests, former) = _find(tables.ids, previous.user_ids), tables.digests()
        known = (was >= 0) & self.comparable
        same, stays = known.copy(), known.copy()
        same[known] = previous.digests[was[known]] == digests[known]
        stays[known] = previous.digests[was[known]] == former[known]
        others = np.flatnonzero(~same)
        batch = tables.encode(others)
        signatures = np.empty(len(was), np.uint64)
        signatures[same] = previous.signatures[was[same]]
        segments = None if tables.segments is None else np.asarray(tables.segments)[others]
        signatures[others] = self.catalogue.user_signer.sign(batch, segments)
        same = known
        same[known] = previous.signatures[was[known]] == signatures[known]
        same |= stays  # all items with rows that came or went are scored anew for everybody
        merged = same.copy()
        if not len(self.rows):
            loses = np.empty(len(previous), np.bool_)
            touched(previous.item_index, previous.counts, self.place, loses)
            merged[same] = loses[was[same]]
        plan = DeltaPlan(*(np.flatnonzero(rows) for rows in (~same, merged, same & ~merged)))
        return _Comparison(plan, was, digests, signatures, others, batch)

    def _merge(
        self,
        previous: Snapshot,
        tables: InputTables,
        was: NDArray[np.int64],
        masks: dict[str, Any],
        out: Snapshot,
        differs: NDArray[np.bool_],
    ) -> None:
        """Write the lists of the users that were somewhere, from their old ones, and whether they differ."""
        changed = self.catalogue.order[self.rows]
        few = tables.encode_for(self.rows) if len(changed) else tables.encode(np.empty(0, np.int64))
        allowed, segment = self.catalogue.allowed_rows(self.eligible, masks.get("segments"), len(was))
        allowed = np.ascontiguousarray(allowed[:, self.rows])
        segment = np.append(segment, np.zeros(LANES, np.int32))  # for the lanes of the last block
        hides = len(changed) > 0 and (len(allowed) > 0 or len(few.excluded.key) > 0)

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

        each_block(self.narrowed, len(was), work, masks.get("threads"))


@dataclass(frozen=True)
class _Comparison:
    """U users beside those of a snapshot.

    Attributes:
        plan: What is to be done.
        was: int64[U], where each user is in the snapshot, or -1.
        digests, signatures: uint64[U].
        others: int64[n], ascending: users whose values are not those of the snapshot.
        batch: They, encoded.
    """

    plan: DeltaPlan
    was: NDArray[np.int64]
    digests: NDArray[np.uint64]
    signatures: NDArray[np.uint64]
    others: NDArray[np.int64]
    batch: UserBatch


def _split(
    catalogue: BoundCatalogue, users: pa.Table, inputs: dict[str, Any], **moves: Any
) -> tuple[InputTables, dict[str, Any]]:
    """The input tables, and the arguments of :meth:`BoundCatalogue.top_k_encoded`."""
    masks: dict[str, Any] = {
        name: inputs[name] for name in ("eligible", "segments", "threads") if name in inputs
    }
    tables = {name: value for name, value in inputs.items() if name != "eligible"}
    return InputTables(catalogue, users, **tables, **moves), masks


def _of_users(masks: dict[str, Any], users: NDArray[np.int64]) -> dict[str, Any]:
    segments = masks.get("segments")
    return {**masks, "segments": None if segments is None else np.asarray(segments)[users]}


def _find(ids: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """Position of each id among the known ones; -1: it is not one of them, or all are of another type."""
    if ids.type != known.type:
        return np.full(len(ids), -1, np.int64)
    return np.arange(len(ids)) if ids.equals(known) else positions(ids, known)
