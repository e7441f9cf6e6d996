"""Scores of one block of users against all items: lanes of codes in, a matrix of margins out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from features.errors import SchemaMismatchError, UnsupportedModelError
from materialize.scoring.kernels_cpu import (
    add_forest,
    add_forest_one,
    fill_affinity,
    start_latent,
)
from materialize.scoring.kernels_explain import explain_pair
from materialize.scoring.kernels_simd import LANES, aligned
from materialize.scoring.kernels_walk import MOST_NODES, MOST_ROWS, gather_codes, lay_out_walk, rescore_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest
    from materialize.scoring.rank_codes import RankCodes
    from materialize.scoring.residual_program import ResidualProgram
    from materialize.scoring.user_batch import UserBatch

    Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Workspace:
    """Arrays that one thread writes into, block after block; all start on cache lines.

    Attributes:
        lanes: int16[lane rows, LANES], the users' codes.
        table: float32[widest pass, LANES].
        score: float32[I, LANES].
        bounds, sampled: float32 and int32[LANES], for the selection.
    """

    lanes: NDArray[np.int16]
    table: Float32
    score: Float32
    bounds: Float32
    sampled: NDArray[np.int32]


@dataclass(frozen=True)
class BlockScorer:
    """What a catalogue knows that turns codes into margins; attributes as in :class:`BoundCatalogue`."""

    base_margin: np.float32
    codes: RankCodes
    forest: CodedForest
    layout: CodeLayout
    program: ResidualProgram
    item_codes: NDArray[np.int16]
    group_codes: dict[str, NDArray[np.int32]]
    item_latent: Float32 | None

    def score(self, batch: UserBatch, first: int, last: int, space: Workspace) -> Float32:
        """Margins of users ``first`` to ``last`` (at most LANES): float32[I, LANES], in the workspace.

        Lanes beyond the users hold arbitrary numbers. With a workspace of one lane, for a batch of one user: [I, 1].
        """
        self.fill_lanes(batch, first, last, space.lanes)
        self._fill_start(batch, first, last, space.score)
        begin, end = batch.pairs.start[first], batch.pairs.start[last]
        if end > begin:
            item = batch.pairs.key[begin:end]
            lane = np.repeat(np.arange(last - first), np.diff(batch.pairs.start[first : last + 1]))
            starts = space.score[item, lane]
        if space.score.shape[1] == 1:
            add_forest_one(
                *self._program, space.lanes.reshape(-1), space.table.reshape(-1), space.score.reshape(-1)
            )
        else:
            add_forest(*self._program, space.lanes, space.table, space.score)
        if end > begin:
            rescore_pairs(
                *self._walk, space.lanes, *self.sections, self.item_codes, lane, item, batch.pairs.codes[begin:end],
                starts, space.score,
            )  # fmt: skip
        return space.score

    def explain(self, batch: UserBatch, row: int) -> NDArray[np.float64]:
        """Shapley values of the first user and the item of a row: float64[features + 1]; the last is what is expected."""
        lanes = np.empty((self.layout.lane_rows, 1), np.int16)
        self.fill_lanes(batch, 0, 1, lanes)
        mine = np.flatnonzero(batch.pairs.key[: batch.pairs.start[1]] == row)
        pair = batch.pairs.codes[mine[-1]] if len(mine) else self.codes.missing[list(self.layout.pair)]
        whole = np.empty(self.layout.rows, np.uint16)
        gather_codes(lanes, *self.sections, self.item_codes, 0, row, pair, whole)
        out = np.zeros(int(self.codes.feature.max(initial=-1)) + 2, np.float64)
        forest = self.forest
        place = np.append(self.layout.whole_vector(), np.int32(0))[forest.row]
        feature = np.append(self.codes.feature, np.int32(-1))[forest.row]
        explain_pair(
            forest.root, forest.left, forest.right, place, forest.threshold, feature, forest.value, forest.cover,
            whole.astype(np.int32) - 1, out,
        )  # fmt: skip
        start = np.empty((len(self.item_codes), 1), np.float32)
        self._fill_start(batch, 0, 1, start)
        out[-1] += start[row, 0]
        return out

    def workspace(self, lanes: int = LANES) -> Workspace:
        """Scratch for one thread."""
        return Workspace(
            lanes=aligned((self.layout.lane_rows, lanes), np.int16),
            table=aligned((self.program.widest_pass, lanes), np.float32),
            score=aligned((len(self.item_codes), lanes), np.float32),
            bounds=aligned((lanes,), np.float32),
            sampled=aligned((lanes,), np.int32),
        )

    def fill_lanes(self, batch: UserBatch, first: int, last: int, lanes: NDArray[np.int16]) -> None:
        """Write the codes of some users: ``lanes`` int16[lane rows, at least last - first]."""
        lanes[: len(self.layout.user), : last - first] = batch.codes[:, first:last]
        for column, rows in self.layout.affinity.items():
            entries = batch.affinity[column]
            fill_affinity(
                self.layout.affinity_start(column), len(rows), self.layout.groups[column] + 1,
                self.codes.missing[list(rows)], entries.start[first : last + 1], entries.key, entries.codes, lanes,
            )  # fmt: skip

    def check_latent(self, batch: UserBatch) -> None:
        """Find out whether users' latent vectors fit the items'.

        Raises:
            SchemaMismatchError: If they do not.
        """
        bound, given = (
            "none" if a is None else f"dimension {a.shape[1]}" for a in (self.item_latent, batch.latent)
        )
        if bound != given:
            raise SchemaMismatchError(
                "latent vectors of users and items do not fit", expected=bound, got=given
            )

    def _fill_start(self, batch: UserBatch, first: int, last: int, score: Float32) -> None:
        """Margins before the first tree; a latent margin takes the base score's place, as XGBoost's base_margin does."""
        if self.item_latent is None or batch.latent is None:
            self.check_latent(batch)
            score[:] = self.base_margin
            return
        self.check_latent(batch)
        user = np.zeros((batch.latent.shape[1], score.shape[1]), np.float32)
        user[:, : last - first] = batch.latent[first:last].T
        start_latent(user, self.item_latent, score)

    @cached_property
    def _program(self) -> tuple[NDArray[np.generic], ...]:
        return tuple(self.program.arrays.values())

    @cached_property
    def _walk(self) -> tuple[NDArray[np.generic], ...]:
        """The trees, packed, each test reading its place in a pair's whole vector."""
        forest, count = self.forest, len(self.forest.left)
        if count >= MOST_NODES or self.layout.rows >= MOST_ROWS:
            raise UnsupportedModelError(
                "the forest is too large for pair features",
                expected=f"fewer than {MOST_NODES} nodes and {MOST_ROWS} rows of codes",
                got=f"{count} nodes, {self.layout.rows} rows",
            )
        place = np.append(self.layout.whole_vector(), np.int32(0))[forest.row]
        nodes, value = np.empty(count, np.uint64), np.empty(count, np.float32)
        first, depth = np.empty(len(forest.root), np.uint64), np.empty(len(forest.root), np.int64)
        lay_out_walk(
            forest.root,
            forest.left,
            forest.right,
            place,
            forest.threshold,
            forest.value,
            nodes,
            first,
            depth,
            value,
        )
        return nodes, first, depth, value

    @cached_property
    def sections(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Start and width of each section of the lanes (user, group columns), and each item's group in it."""
        columns = list(self.layout.affinity)
        start = [0, *(self.layout.affinity_start(c) for c in columns)]
        width = [len(self.layout.user), *(len(self.layout.affinity[c]) for c in columns)]
        group = np.stack([np.zeros(len(self.item_codes), np.int32), *(self.group_codes[c] for c in columns)])
        return np.array(start, np.int32), np.array(width, np.int32), group
