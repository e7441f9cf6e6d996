"""Rankers that learn from other users: TIFU-kNN, ItemKNN, EASE, ALS; for ``evaluate --against all``.

ItemKNN and ALS come from the package ``implicit``. EASE is a page of linear algebra (Steck 2019,
https://arxiv.org/abs/1905.03375), TIFU-kNN one of sparse sums, which the pair feature of that name shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ibis
import numpy as np
import pyarrow.compute as pc
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import ItemItemRecommender
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.definitions.baskets import basket_vectors, baskets, mixed, similar_users
from features.schema import ITEM_ID, USER_ID

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import ibis.expr.types as ir
    import pyarrow as pa
    from numpy.typing import NDArray

    from materialize.training.baselines import Baseline
    from materialize.training.history import History

NEIGHBOURS = 300
EASE_ITEMS = 6000
"""EASE inverts a dense matrix of the most popular items; others fall back on popularity."""


class ItemKnn:
    """Sum of the cosine similarities between an item and what the user had; each item has 300 neighbours."""

    def __init__(self, history: History) -> None:
        binary = _binary(history.counts)
        norms = np.sqrt(np.maximum(1.0, np.asarray(binary.sum(axis=0)).ravel()))
        model = ItemItemRecommender(K=NEIGHBOURS + 1, num_threads=1)
        model.fit((binary @ sp.diags(1 / norms)).tocsr().astype(np.float64), show_progress=False)
        similarity = sp.csr_matrix(model.similarity)
        similarity.setdiag(0)
        self._history, self._similarity = history, similarity.T.tocsr()
        self._filler = _filler(history)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`~materialize.training.baselines.Baseline`."""
        own = _binary(self._history.counts[self._history.rows[block]])
        return np.asarray((own @ self._similarity).toarray(), np.float64) + self._filler


class Ease:
    """Item weights that rebuild each user's items from the others, in closed form.

    Args:
        history: What users did.
        penalty: Ridge penalty on the weights.
    """

    def __init__(self, history: History, penalty: float = 500.0) -> None:
        order = np.argsort(-history.popularity, kind="stable")[:EASE_ITEMS]
        self._items = np.sort(order)
        binary = _binary(history.counts)[:, self._items].astype(np.float64)
        gram = np.asarray((binary.T @ binary).toarray())
        gram[np.diag_indices_from(gram)] += penalty
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self._history, self._weights = history, weights
        self._filler = _filler(history)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`~materialize.training.baselines.Baseline`."""
        own = _binary(self._history.counts[self._history.rows[block]])[:, self._items]
        scores = np.tile(self._filler, (own.shape[0], 1))
        scores[:, self._items] += own @ self._weights
        return scores


class Als:
    """Dot products of vectors learned by weighted alternating least squares from logarithmic counts."""

    def __init__(self, history: History, seed: int) -> None:
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=64, regularization=0.05, alpha=5.0, iterations=15, num_threads=1, random_state=seed
            )
            model.fit(history.counts.log1p().tocsr(), show_progress=False)
        self._users = np.asarray(model.user_factors, np.float64)[history.rows]
        self._items = np.asarray(model.item_factors, np.float64)
        self._filler = _filler(history)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`~materialize.training.baselines.Baseline`."""
        return np.asarray(self._users[block] @ self._items.T + self._filler, np.float64)


class TifuKnn:
    """The user's own decayed baskets, mixed with those of the most similar users: :mod:`features.definitions.baskets`.

    Args:
        vectors: float32[users, items] of :func:`tifu_vectors`, rows as in the history.
        history: Says which rows are evaluated.
    """

    def __init__(self, vectors: sp.csr_matrix, history: History) -> None:
        self._vectors, self._history = vectors, history
        self._filler = _filler(history)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`~materialize.training.baselines.Baseline`."""
        rows = self._history.rows[block]
        own, others = self._vectors[rows], self._vectors[:-1]
        nearest = similar_users(own, rows, others, np.arange(others.shape[0]))
        return np.asarray(mixed(own, nearest, others).toarray(), np.float64) + self._filler


def tifu_vectors(events: ir.Table, instant: datetime, items: pa.Array) -> sp.csr_matrix:
    """TIFU-kNN's user vectors: float32[users, items], users in the order of :class:`History`, an empty row last.

    Args:
        events: ``user_id, item_id, event_time``.
        instant: Events before it count.
        items: Ids of the candidates, in the order of the columns.
    """
    before = events.filter(events.event_time < ibis.literal(instant)).semi_join(
        ibis.memtable({ITEM_ID: items}), ITEM_ID
    )
    found = baskets(before, USER_ID, ITEM_ID).to_pyarrow()
    everyone = pc.unique(found[USER_ID])
    user = pc.index_in(found[USER_ID], value_set=everyone).to_numpy()
    item = pc.index_in(found[ITEM_ID], value_set=items).to_numpy()
    return basket_vectors(user, found["day"].to_numpy(), item, (len(everyone) + 1, len(items)))


def collaborative_baselines(
    events: ir.Table, instant: datetime, items: pa.Array, history: History, seed: int
) -> dict[str, Callable[[], Baseline]]:
    """How to make each, by name; making one is the costly part, so that it can be left out."""
    return {
        "tifu_knn": lambda: TifuKnn(tifu_vectors(events, instant, items), history),
        "item_knn": lambda: ItemKnn(history),
        "ease": lambda: Ease(history),
        "als": lambda: Als(history, seed),
    }


def _binary(counts: sp.csr_matrix) -> sp.csr_matrix:
    return (counts > 0).astype(np.float32)


def _filler(history: History) -> NDArray[np.float64]:
    """Recent popularity, small enough to break ties only."""
    return np.asarray(history.recent / max(1.0, float(history.recent.max(initial=0.0))) * 1e-9)
