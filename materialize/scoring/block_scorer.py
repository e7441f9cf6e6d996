"""Scores of one block of users against all items: lanes of codes in, a matrix of margins out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from features.errors import SchemaMismatchError
from materialize.scoring.kernels_cpu import (
    add_forest,
    add_forest_one,
    fill_affinity,
    start_latent,
)
from materialize.scoring.kernels_explain import explain_pair
from materialize.scoring.kernels_pairs import gather_pairs, rescore_pairs, turn_lanes
from materialize.scoring.kernels_simd import LANES, aligned
from materialize.scoring.pair_forest import PairForest, pair_forest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest
    from materialize.scoring.rank_codes import RankCodes
    from materialize.scoring.residual_program import ResidualProgram
    from materialize.scoring.user_batch import UserBatch

    Float32 = NDArray[np.float32]

_SIDE = 8
"""Codes are gathered in squares of so many rows and pairs, which may hang over."""


def _padded(count: int) -> int:
    """Room for ``count`` codes and a square that hangs over."""
    return count + 2 * _SIDE


@dataclass(frozen=True)
class Workspace:
    """Arrays that one thread writes into, block after block; all start on cache lines.

    Attributes:
        lanes: int16[lane rows, LANES], the users' codes.
        table: float32[widest pass, LANES].
        score: float32[I, LANES].
        bounds, sampled: float32 and int32[LANES], for the selection.
        by_user: int16[LANES, lane rows and some more], the users' codes again, side by side.
        pair_codes: int16[rows + 8, LANES], whole vectors of pairs.
        pair_table: float32[widest tree, LANES].
        pair_total: float32[LANES].
    """

    lanes: NDArray[np.int16]
    table: Float32
    score: Float32
    bounds: Float32
    sampled: NDArray[np.int32]
    by_user: NDArray[np.int16]
    pair_codes: NDArray[np.int16]
    pair_table: Float32
    pair_total: Float32


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
            latent = self.item_latent is not None
            starts = space.score[item, lane] if latent else np.full(len(item), self.base_margin)
        if space.score.shape[1] == 1:
            add_forest_one(
                *self._program, space.lanes.reshape(-1), space.table.reshape(-1), space.score.reshape(-1)
            )
        else:
            add_forest(*self._program, space.lanes, space.table, space.score)
        if end > begin:
            turn_lanes(space.lanes, space.by_user)
            rescore_pairs(
                *self._pair_forest.arrays, space.by_user, *self._sections, self._padded_item_codes, lane, item,
                batch.pairs.codes, begin, starts, space.pair_codes, space.pair_table, space.pair_total, space.score,
            )  # fmt: skip
        return space.score

    def explain(self, batch: UserBatch, row: int) -> NDArray[np.float64]:
        """Shapley values of the first user and the item of a row: float64[features + 1]; the last is what is expected."""
        lanes = np.empty((self.layout.lane_rows, 1), np.int16)
        self.fill_lanes(batch, 0, 1, lanes)
        mine = np.flatnonzero(batch.pairs.key[: batch.pairs.start[1]] == row)
        pair = batch.pairs.codes[:, mine[-1]] if len(mine) else self.codes.missing[list(self.layout.pair)]
        whole = self.whole_vectors(lanes, np.zeros(1, np.int64), np.array([row], np.int32), pair[:, None])
        out = np.zeros(int(self.codes.feature.max(initial=-1)) + 2, np.float64)
        forest = self.forest
        place = np.append(self.layout.whole_vector(), np.int32(0))[forest.row]
        feature = np.append(self.codes.feature, np.int32(-1))[forest.row]
        explain_pair(
            forest.root, forest.left, forest.right, place, forest.threshold, feature, forest.value, forest.cover,
            whole[:, 0], out,
        )  # fmt: skip
        start = np.empty((len(self.item_codes), 1), np.float32)
        self._fill_start(batch, 0, 1, start)
        out[-1] += start[row, 0]
        return out

    def whole_vectors(
        self,
        lanes: NDArray[np.int16],
        lane: NDArray[np.int64],
        item: NDArray[np.int32],
        pair_codes: NDArray[np.int16],
    ) -> NDArray[np.int16]:
        """All codes of some pairs: int16[rows, pairs].

        Args:
            lanes: int16[lane rows, users], from :meth:`fill_lanes`.
            lane: int64[pairs], the user of each pair.
            item: int32[pairs].
            pair_codes: int16[pair rows, pairs].
        """
        by_user = np.empty((lanes.shape[1], _padded(len(lanes))), np.int16)
        turn_lanes(lanes, by_user)
        out = np.empty((self.layout.rows + _SIDE, _padded(len(item))), np.int16)
        gather_pairs(
            by_user, *self._sections, self._padded_item_codes, lane, item, pair_codes, 0, 0, len(item), out
        )
        return np.ascontiguousarray(out[: self.layout.rows, : len(item)])

    def workspace(self, lanes: int = LANES) -> Workspace:
        """Scratch for one thread."""
        paired = len(self.layout.pair) > 0
        return Workspace(
            lanes=aligned((self.layout.lane_rows, lanes), np.int16),
            table=aligned((self.program.widest_pass, lanes), np.float32),
            score=aligned((len(self.item_codes), lanes), np.float32),
            bounds=aligned((lanes,), np.float32),
            sampled=aligned((lanes,), np.int32),
            by_user=np.empty((lanes, _padded(self.layout.lane_rows)) if paired else (0, 0), np.int16),
            pair_codes=aligned((self.layout.rows + _SIDE if paired else 0, LANES), np.int16),
            pair_table=aligned((self._pair_forest.widest_tree if paired else 0, LANES), np.float32),
            pair_total=aligned((LANES,), np.float32),
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
        users, items = batch.latent, self.item_latent
        if users is None or items is None:
            if users is not items:
                self.check_latent(batch)
            score[:] = self.base_margin
            return
        self.check_latent(batch)
        user = np.zeros((users.shape[1], score.shape[1]), np.float32)
        user[:, : last - first] = users[first:last].T
        start_latent(user, items, score)

    @cached_property
    def _program(self) -> tuple[NDArray[np.generic], ...]:
        return tuple(self.program.arrays.values())

    @cached_property
    def _padded_item_codes(self) -> NDArray[np.int16]:
        """``item_codes``, behind which eight codes more may be read."""
        codes = np.zeros(self.item_codes.size + _SIDE, np.int16)
        codes[: self.item_codes.size] = self.item_codes.reshape(-1)
        return codes[: self.item_codes.size].reshape(self.item_codes.shape)

    @cached_property
    def _pair_forest(self) -> PairForest:
        return pair_forest(self.forest, self.layout)

    @cached_property
    def _sections(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Start and width of each section of the lanes (user, group columns), and each item's group in it."""
        columns = list(self.layout.affinity)
        start = [0, *(self.layout.affinity_start(c) for c in columns)]
        width = [len(self.layout.user), *(len(self.layout.affinity[c]) for c in columns)]
        group = np.stack([np.zeros(len(self.item_codes), np.int32), *(self.group_codes[c] for c in columns)])
        return np.array(start, np.int32), np.array(width, np.int32), group
