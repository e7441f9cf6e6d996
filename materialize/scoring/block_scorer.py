"""Scores of one block of users against all items: lanes of codes in, a matrix of margins out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from features.errors import SchemaMismatchError
from materialize.scoring.kernels_cpu import (
    LANES,
    add_forest,
    add_forest_one,
    fill_affinity,
    rescore_pairs,
    start_latent,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest
    from materialize.scoring.rank_codes import RankCodes
    from materialize.scoring.residual_program import ResidualProgram
    from materialize.scoring.user_batch import UserBatch

    Float32 = NDArray[np.float32]


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

    def score(self, batch: UserBatch, first: int, last: int) -> Float32:
        """Margins of users ``first`` to ``last`` (at most LANES): float32[I, LANES], or [I, 1] for one user alone.

        Lanes beyond the users hold arbitrary numbers.
        """
        alone = len(batch) == 1
        lanes = self._lanes(batch, first, last, 1 if alone else LANES)
        score = self._start(batch, first, last, lanes.shape[1])
        pairs = batch.pairs.start[first : last + 1]
        lane = np.repeat(np.arange(last - first), np.diff(pairs))
        item = batch.pairs.key[pairs[0] : pairs[-1]]
        starts = score[item, lane]
        program = self.program.arrays.values()
        if alone:
            add_forest_one(*program, lanes[:, 0], np.empty(self.program.widest_pass, np.float32), score[:, 0])
        else:
            add_forest(*program, lanes, np.empty((self.program.widest_pass, LANES), np.float32), score)
        if len(item):
            entries = batch.pairs.codes[pairs[0] : pairs[-1]]
            rescore_pairs(
                *self._walk,
                lanes,
                *self._sections,
                self.item_codes,
                pairs - pairs[0],
                item,
                entries,
                starts,
                score,
            )
        return score

    def _lanes(self, batch: UserBatch, first: int, last: int, width: int) -> NDArray[np.int16]:
        lanes = np.zeros((self.layout.lane_rows, width), np.int16)
        lanes[: len(self.layout.user), : last - first] = batch.codes[:, first:last]
        for column, rows in self.layout.affinity.items():
            entries = batch.affinity[column]
            fill_affinity(
                self.layout.affinity_start(column), len(rows), self.layout.groups[column] + 1,
                self.codes.missing[list(rows)], entries.start[first : last + 1], entries.key, entries.codes, lanes,
            )  # fmt: skip
        return lanes

    def _start(self, batch: UserBatch, first: int, last: int, width: int) -> Float32:
        """Margins before the first tree; a latent margin takes the base score's place, as XGBoost's base_margin does."""
        if self.item_latent is None and batch.latent is None:
            return np.full((self.item_codes.shape[0], width), self.base_margin, np.float32)
        if (
            self.item_latent is None
            or batch.latent is None
            or batch.latent.shape[1] != self.item_latent.shape[1]
        ):
            bound, given = (
                "none" if a is None else f"dimension {a.shape[1]}" for a in (self.item_latent, batch.latent)
            )
            raise SchemaMismatchError(
                "latent vectors of users and items do not fit", expected=bound, got=given
            )
        user = np.zeros((batch.latent.shape[1], width), np.float32)
        user[:, : last - first] = batch.latent[first:last].T
        score = np.empty((len(self.item_latent), width), np.float32)
        start_latent(user, self.item_latent, score)
        return score

    @cached_property
    def _walk(self) -> tuple[NDArray[np.generic], ...]:
        """The trees, each test reading its place in a pair's whole vector."""
        forest, place = self.forest, np.append(self.layout.whole_vector(), np.int32(0))
        return (forest.root, forest.left, forest.right, place[forest.row], forest.threshold, forest.value)

    @cached_property
    def _sections(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Start and width of each section of the lanes (user, group columns), and each item's group in it."""
        columns = list(self.layout.affinity)
        start = [0, *(self.layout.affinity_start(c) for c in columns)]
        width = [len(self.layout.user), *(len(self.layout.affinity[c]) for c in columns)]
        group = np.stack([np.zeros(len(self.item_codes), np.int32), *(self.group_codes[c] for c in columns)])
        return np.array(start, np.int32), np.array(width, np.int32), group
