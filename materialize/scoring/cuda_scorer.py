"""Scores and lists on a GPU: what :class:`BlockScorer` and the selection do, for some thousand users at a time.

The program, the trees and the items are copied to the GPU once; of users, their codes go there, and lists come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from materialize.scoring.block_scorer import BlockScorer
    from materialize.scoring.user_batch import UserBatch

_USERS = 2048
"""Users whose scores are on the GPU together: 80 MB with 10,000 items."""
_THREADS = 128
_TALLEST = 65_535
"""Most blocks in the second dimension of a grid."""


def check_gpu() -> None:
    """Find out whether there is a GPU to score on.

    Raises:
        CallerError: If there is none.
    """
    if not _kernels().cuda.is_available():
        raise CallerError(
            "there is no GPU to score on",
            expected="an NVIDIA GPU with its driver, and the package numba-cuda",
            fix="install 'prescore[gpu]' on a machine that has one, or score on the CPU",
        )


@cache
def _kernels() -> ModuleType:
    """The kernels; numba.cuda is loaded only where it is asked for."""
    from materialize.scoring import kernels_cuda  # noqa: PLC0415

    return kernels_cuda


@dataclass(frozen=True)
class CudaScorer:
    """A catalogue on the GPU.

    Attributes:
        scorer: Its CPU counterpart, for the arrays and for filling lanes.
        order: int32[I], the item of each row.
    """

    scorer: BlockScorer
    order: NDArray[np.int32]

    def score(self, batch: UserBatch, out: NDArray[np.float32]) -> None:
        """Write all margins into ``out`` float32[U, I], by item."""
        for first, last, score in self._blocks(batch):
            out[first:last, self.order] = score.copy_to_host().T

    def top_k(
        self,
        batch: UserBatch,
        allowed: NDArray[np.bool_],
        segment: NDArray[np.int32],
        out: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]],
    ) -> None:
        """Write the best k of each user, int32 and float32[U, k], and how many they are, int32[U].

        Args:
            batch: The users.
            allowed: bool[S, I] by row; S = 0: every item may be given.
            segment: int32[U].
            out: Items (-1 beyond the count), scores (NaN beyond it), counts.
        """
        kernels, k = _kernels(), out[0].shape[1]
        for first, last, score in self._blocks(batch):
            users = last - first
            excluded = batch.excluded.start[first : last + 1]
            if len(allowed):
                self._run(kernels.hide_ineligible, score.shape, allowed, segment[first:last], score)
            if excluded[-1] > excluded[0]:
                keys = batch.excluded.key[excluded[0] : excluded[-1]]
                self._run(kernels.hide_excluded, (users,), excluded - excluded[0], keys, score)
            best_score, best_item = self._empty((k, users), np.float32), self._empty((k, users), np.int32)
            count = self._empty((users,), np.int32)
            self._run(
                kernels.select_top, (users,), score, self._arrays["order"], best_score, best_item, count
            )
            counts = count.copy_to_host()
            real = np.arange(k) < counts[:, None]
            out[0][first:last] = np.where(real, best_item.copy_to_host().T, -1)
            out[1][first:last] = np.where(real, best_score.copy_to_host().T, np.nan)
            out[2][first:last] = counts

    def _blocks(self, batch: UserBatch) -> Iterator[tuple[int, int, Any]]:
        """First and last user of each block, and their scores on the GPU: float32[I, users], by row."""
        self.scorer.check_latent(batch)
        kernels, program, arrays = _kernels(), self.scorer.program, self._arrays
        for first in range(0, len(batch), _USERS):
            last = min(first + _USERS, len(batch))
            users = last - first
            lanes = np.empty((self.scorer.layout.lane_rows, users), np.int16)
            self.scorer.fill_lanes(batch, first, last, lanes)
            base, latent = self.scorer.base_margin, np.zeros((1, users), np.float32)
            if batch.latent is not None:
                base, latent = np.float32(0), np.ascontiguousarray(batch.latent[first:last].T)
            score = self._empty((len(self.order), users), np.float32)
            self._run(
                kernels.start_scores,
                score.shape,
                base,
                latent,
                arrays["item_latent"],
                score,
            )
            pairs = self._pairs(batch, first, last, lanes)
            start = self._empty((len(pairs[0]),), np.float32)
            self._run(kernels.keep_starts, (len(pairs[0]),), *pairs[:2], score, start)
            codes, table = self._copy(lanes), self._empty((program.widest_pass, users), np.float32)
            for p in range(len(program.first_item)):
                nodes = slice(program.node_start[p], program.node_start[p + 1])
                items = program.last_item[p] - program.first_item[p]
                starts = slice(program.first_start[p], program.first_start[p] + items + 1)
                self._run(
                    kernels.fill_table, (users,),
                    arrays["leaf_value"][program.leaf_start[p] : program.leaf_start[p + 1]],
                    *(arrays[name][nodes] for name in ("node_row", "node_threshold", "node_left", "node_right")),
                    codes, table,
                )  # fmt: skip
                self._run(
                    kernels.add_rows, (int(items), users), program.first_item[p], arrays["root_start"][starts],
                    arrays["root"], table, score,
                )  # fmt: skip
            trees = (
                arrays[f"tree.{name}"] for name in ("root", "left", "right", "place", "threshold", "value")
            )
            self._run(kernels.walk_pairs, (len(pairs[0]),), *trees, pairs[2], *pairs[:2], start, score)
            yield first, last, score

    def _pairs(
        self, batch: UserBatch, first: int, last: int, lanes: NDArray[np.int16]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int16]]:
        """Lane, item and whole vector of each pair that has values; of equal pairs the last one."""
        start = batch.pairs.start[first : last + 1]
        lane = np.repeat(np.arange(last - first), np.diff(start))
        item, entries = batch.pairs.key[start[0] : start[-1]], batch.pairs.codes[:, start[0] : start[-1]]
        _, behind = np.unique((lane * len(self.order) + item)[::-1], return_index=True)
        kept = len(lane) - 1 - behind
        lane, item = lane[kept], item[kept]
        return lane, item, self.scorer.whole_vectors(lanes, lane, item, entries[:, kept])

    def _run(self, kernel: Any, shape: tuple[int, ...], *arguments: Any) -> None:
        """Start a thread for each (row, user) or user of ``shape``."""
        shape = tuple(shape)  # the simulator's shapes do not count from behind
        if 0 in shape:
            return
        threads = min(_THREADS, shape[-1])
        grid, block = [-(-shape[-1] // threads)], [threads]
        if len(shape) > 1:
            tall = -(-shape[0] // _TALLEST)
            grid, block = [*grid, -(-shape[0] // tall)], [threads, tall]
        kernel[tuple(grid), tuple(block)](
            *(self._copy(a) if isinstance(a, np.ndarray) else a for a in arguments)
        )

    @staticmethod
    def _copy(array: NDArray[Any]) -> Any:
        return _kernels().cuda.to_device(np.ascontiguousarray(array))

    @staticmethod
    def _empty(shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        return _kernels().cuda.device_array(tuple(max(1, n) for n in shape), dtype)

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        """What stays on the GPU."""
        scorer, forest = self.scorer, self.scorer.forest
        latent = scorer.item_latent
        host = {
            **scorer.program.arrays,
            "order": self.order,
            "item_latent": np.zeros((len(self.order), 1), np.float32) if latent is None else latent,
            "tree.root": forest.root,
            "tree.left": forest.left,
            "tree.right": forest.right,
            "tree.place": np.append(scorer.layout.whole_vector(), np.int32(0))[forest.row],
            "tree.threshold": forest.threshold,
            "tree.value": forest.value,
        }
        return {name: self._copy(array) for name, array in host.items()}
