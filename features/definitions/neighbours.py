"""The collaborative pair features: how near an item is to what a user has had, by who else had both.

Four measures. ``knn``: the cosine between two items over the users of the history, each user counted once per
item (ItemKNN). ``ease``: the weights that rebuild each user's items from the others, in closed form (Steck
2019, https://arxiv.org/abs/1905.03375). Of both an item keeps its ``ITEM_NEIGHBOURS`` nearest, and a pair's
value is the sum over the items that the user had; that of ``knn`` over the root of their number. ``als``: the
product of latent vectors of user and item, by alternating least squares. ``tifu``: the user's own decayed
baskets, mixed with those of the users who are most like them (:mod:`features.definitions.baskets`). Where people do
not repeat, as with films, this tells two users apart.

Of the items that can be recommended the ``MOST_ITEMS`` that most users had are compared: others have too few
users to learn from. Each sum runs in one thread, in the order of the ids: the same input gives the same bits.

What items have to do with each other is learned from settled pairs, those of before the cut-off's day; a user's own
items count up to the cut-off. So in the course of a day only the rows of users with new items change.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import all_pairs_knn
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.definitions.baskets import NEIGHBOURS, OWN_SHARE, mixed, similar_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ITEM_NEIGHBOURS = 200
"""Neighbours that an item keeps."""

LEAST_USERS = 5
"""An item of fewer users tells no more than chance would."""

MOST_ITEMS = 3000
"""EASE inverts a dense matrix of so many items."""

EASE_PENALTY = 500.0
"""Ridge penalty on EASE's weights."""

_ALS = {
    "factors": 64,
    "regularization": 0.05,
    "alpha": 5.0,
    "iterations": 10,
    "random_state": 0,
    "num_threads": 0,
}
"""Shape and penalty of the latent vectors. Threads share the rows: what is in one does not depend on them."""

NEIGHBOUR_SCHEMA = pa.schema(
    [
        ("user_no", pa.int32()),
        ("item_no", pa.int32()),
        ("knn", pa.float32()),
        ("ease", pa.float32()),
        ("als", pa.float32()),
        ("tifu", pa.float32()),
    ]
)

MOST_COMPARED, MOST_COMPARISONS = 5000, 600_000_000
"""With so many users, evenly chosen, is everybody compared, by the baskets of both; with fewer where that were too much."""

LEAST_SIMILAR = 30
"""Of the users that are compared, so many of the nearest are mixed in at least."""

MOST_PAIRS, LEAST_PER_USER = 10_000_000, 50
"""Beyond so many pairs users get fewer neighbours each; fewer than 50 are not worth their place."""

_DENSE_CELLS = 4_000_000
"""Cells of a dense block of scores: 16 MB; a thread holds about ten such blocks."""

_MOST_THREADS = 4
"""Threads that score users; more would hold more blocks than they are worth."""


def neighbours_per_user(asked: int, users: int) -> int:
    """How many new items each user gets, so that a build stays of a size: ``asked`` or fewer; 0: none."""
    affordable = min(asked, MOST_PAIRS // max(1, users))
    return affordable if affordable >= min(asked, LEAST_PER_USER) else 0


def neighbour_scores(
    own: sparse.csr_matrix, learned: sparse.csr_matrix, candidates: NDArray[np.int32], *, per_user: int
) -> Iterator[pa.RecordBatch]:
    """Scores of the candidates that a user had, and of the nearest ones that they had not.

    Args:
        own: float32[users, c]: each user's baskets, of :func:`~features.definitions.baskets.basket_vectors`.
        learned: Likewise, of what is settled.
        candidates: int32[c], ascending: items that may be listed, by what is settled.
        per_user: About so many new items per user, as many of them the nearest by each measure; among equals
            the smaller number goes first. 0: nothing at all.

    Yields:
        Rows of :data:`NEIGHBOUR_SCHEMA`, sorted by (user_no, item_no). Of an item that is not compared but that the
        user had, there is the share of their own baskets in ``tifu``, and nothing else.
    """
    amounts = np.bincount(learned.indices, minlength=len(candidates))
    popular = np.argsort(-amounts, kind="stable")[:MOST_ITEMS]
    known = np.sort(popular[amounts[popular] >= LEAST_USERS])
    if not per_user or not len(known):
        return
    seen, taught = _ones(own[:, known]), _ones(learned[:, known])
    knn, ease, (tastes, traits) = _cosines(taught), _ease_weights(taught), _latent_vectors(taught, seen)
    everyone = np.flatnonzero(np.diff(learned.indptr))
    people = everyone[:: -(-len(everyone) // min(MOST_COMPARED, max(1, MOST_COMPARISONS // len(everyone))))]
    # Of a part of the users as many are mixed in as there would be of all, but not too few to tell what they like.
    amount = max(LEAST_SIMILAR, NEIGHBOURS * len(people) // len(everyone))
    others = learned[people]
    shown = others[:, known]
    roots = np.sqrt(np.maximum(np.diff(seen.indptr), 1)).astype(np.float32)
    some = np.flatnonzero(np.diff(own.indptr))
    step = max(1, _DENSE_CELLS // max(len(known), len(people)))

    def score(rows: NDArray[np.int64]) -> pa.RecordBatch:
        block, habits = seen[rows], own[rows]
        had = block.toarray() > 0
        nearest = similar_users(habits, rows, others, people, amount)
        scores = (
            (block @ knn).toarray() / roots[rows, None],
            (block @ ease).toarray(),
            tastes[rows] @ traits.T,
            mixed(habits[:, known], nearest, shown).toarray(),
        )
        chosen = had.copy()
        for measure in scores:
            chosen |= _largest(np.where(had, 0, measure), -(-per_user // len(scores)))
        user, place = np.nonzero(chosen)
        rare = habits.tocoo()
        apart = ~np.isin(rare.col, known)
        numbers = np.concatenate([rows[user], rows[rare.row[apart]]]).astype(np.int32)
        items = np.concatenate([candidates[known[place]], candidates[rare.col[apart]]])
        values = [np.append(measure[user, place], np.full(apart.sum(), np.nan)) for measure in scores]
        values[-1][len(user) :] = OWN_SHARE * rare.data[apart]
        order = np.lexsort((items, numbers))
        return pa.RecordBatch.from_arrays(
            [
                numbers[order],
                items[order],
                *(pa.array(value[order], pa.float32(), from_pandas=True) for value in values),
            ],
            schema=NEIGHBOUR_SCHEMA,
        )

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    blocks = [some[start : start + step] for start in range(0, len(some), step)]
    # Users share no sum, and blocks are the same for any number of threads.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(blocks), threads):  # no more results at once than are made at once
            yield from pool.map(score, blocks[start : start + threads])


def _ones(baskets: sparse.csr_matrix) -> sparse.csr_matrix:
    ones = baskets.sorted_indices()
    ones.data[:] = 1
    return ones


def _cosines(seen: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cosines [from, to], of each ``to`` its nearest alone."""
    norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
    scaled = sparse.csr_matrix(seen.multiply(1 / norms)).astype(np.float64)
    # Threads share the rows; what is in one does not depend on them.
    nearest = all_pairs_knn(scaled, ITEM_NEIGHBOURS + 1, show_progress=False, num_threads=0).tocoo()
    other = nearest.row != nearest.col
    kept = (nearest.data[other].astype(np.float32), (nearest.col[other], nearest.row[other]))
    return sparse.csr_matrix(kept, shape=(seen.shape[1], seen.shape[1]))


def _ease_weights(seen: sparse.csr_matrix) -> sparse.csr_matrix:
    """EASE's weights [from, to], of each ``to`` the largest by amount alone."""
    wide = seen.astype(np.float64)
    gram = (wide.T @ wide).toarray()
    gram[np.diag_indices_from(gram)] += EASE_PENALTY
    with threadpool_limits(1, "blas"):  # the order of its sums depends on the number of threads
        inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = (-inverse / np.diag(inverse)).T.astype(np.float32)
    np.fill_diagonal(weights, 0)
    to, source = np.nonzero(_largest(np.abs(weights), ITEM_NEIGHBOURS))
    return sparse.csr_matrix((weights[to, source], (source, to)), shape=weights.shape)


def _latent_vectors(
    learned: sparse.csr_matrix, seen: sparse.csr_matrix
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of users, by all that they have seen, and of items: float32[users, factors], float32[items, factors]."""
    amounts = np.diff(learned.indptr)
    known, moved = np.flatnonzero(amounts), np.flatnonzero(np.diff(seen.indptr) > amounts)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(**_ALS)
        # Users without a settled item are left out: their number decides what random vectors the others begin with.
        model.fit(learned[known], show_progress=False)
        traits = np.asarray(model.item_factors, np.float32)
        tastes = np.zeros((seen.shape[0], traits.shape[1]), np.float32)
        tastes[known] = model.user_factors
        if len(moved):
            tastes[moved] = model.recalculate_user(moved, seen[moved])
    return tastes, traits


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Mask of the k largest positive values of each row; ties go to smaller columns."""
    mask = np.asarray(values > 0)
    if k < values.shape[1]:
        place = values.shape[1] - k
        threshold = np.partition(values, place, axis=1)[:, place]
        mask &= values >= threshold[:, None]
        for row in np.flatnonzero(mask.sum(axis=1) > k):
            tied = np.flatnonzero(values[row] == threshold[row])
            excess = int(mask[row].sum()) - k
            mask[row, tied[len(tied) - excess :]] = False
    return mask
