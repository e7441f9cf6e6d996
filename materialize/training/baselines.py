"""Simple rankers that a model has to beat: popularity, recent popularity, the user's own decayed frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from materialize.training.history import History


BLOCK_CELLS = 4_000_000
"""Scores held at once."""


class Baseline(Protocol):
    """Scores every candidate for a block of users."""

    def scores(self, block: slice) -> NDArray[np.float64]:
        """float64[users of the block, items]; a fresh array."""


class Popularity:
    """The same list for everyone.

    Args:
        events: float64[items]: events of each item.
        history: Says how many users there are.
    """

    def __init__(self, events: NDArray[np.float64], history: History) -> None:
        self._events = events
        self._users = len(history.rows)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`Baseline`."""
        return np.tile(self._events, (len(range(*block.indices(self._users))), 1))


class SparseScores:
    """Scores of some pairs; recent popularity breaks ties and fills lists up.

    Args:
        pairs: float[users, items]: a row per evaluated user; what is not stored counts 0.
        history: Knows what is popular.
    """

    def __init__(self, pairs: sp.csr_matrix, history: History) -> None:
        top = max(1.0, float(history.recent.max(initial=0.0)))
        self._pairs = pairs
        # Below any difference between two scores that float32 can tell apart.
        self._filler = history.recent / top * 1e-7

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`Baseline`."""
        return np.asarray(self._pairs[block].toarray(), np.float64) + self._filler


def simple_baselines(history: History) -> dict[str, Baseline]:
    """Those that every training is compared with, by name."""
    return {
        "popularity": Popularity(history.popularity, history),
        "recent_popularity": Popularity(history.recent, history),
        "own_decayed_frequency": SparseScores(history.decayed[history.rows], history),
    }


def rank(
    baseline: Baseline, users: int, items: int, excluded: NDArray[np.int64], depth: int
) -> NDArray[np.int64]:
    """Each user's best items.

    Args:
        baseline: Gives the scores.
        users: Number of users.
        items: Number of candidates.
        excluded: Sorted codes of pairs that must not be listed.
        depth: Length of the lists.

    Returns:
        int64[users, min(depth, items)]: item positions, best first, ties by position; -1 past the end.
    """
    depth = min(depth, items)
    ranked = np.full((users, depth), -1, np.int64)
    step = max(1, BLOCK_CELLS // items)
    for start in range(0, users, step):
        block = slice(start, min(start + step, users))
        scores = baseline.scores(block)
        low, high = np.searchsorted(excluded, [start * items, block.stop * items])
        scores.reshape(-1)[excluded[low:high] - start * items] = -np.inf
        best = _largest(scores, depth)
        ranked[block] = np.where(np.take_along_axis(scores, best, axis=1) > -np.inf, best, -1)
    return ranked


def _largest(scores: NDArray[np.float64], depth: int) -> NDArray[np.int64]:
    """Columns of each row's largest scores, largest first, ties by column: int64[rows, depth]."""
    rows, items = scores.shape
    # Of columns taken some at a time, the largest of each: so many of these lie at or above a bound, so as many scores do.
    together = min(16, max(1, items // (4 * depth)))
    heads = scores[:, : items // together * together].reshape(rows, together, -1).max(axis=1)
    bound = np.partition(heads, heads.shape[1] - depth, axis=1)[:, -depth]
    row, column = np.nonzero(scores >= bound[:, None])
    order = np.lexsort((-scores[row, column], row))
    firsts = np.searchsorted(row, np.arange(rows))
    return np.asarray(column[order[firsts[:, None] + np.arange(depth)]], np.int64)
