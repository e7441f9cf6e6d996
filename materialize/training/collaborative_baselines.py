"""Rankers that learn from other users: TIFU-kNN, ItemKNN, EASE, ALS; for ``evaluate --against all``.

ItemKNN and ALS come from the package ``implicit``. EASE is a page of linear algebra (Steck 2019,
https://arxiv.org/abs/1905.03375), TIFU-kNN one of sparse sums (Hu et al. 2020, https://arxiv.org/abs/2006.00556).
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
    """The user's own decayed baskets, mixed with those of the most similar users.

    A basket is a day. A user's baskets are cut into ``groups`` of equal length; older baskets count less
    within a group, older groups less among groups.

    Args:
        vectors: float64[users, items] of :func:`tifu_vectors`, rows as in the history.
        history: Says which rows are evaluated.
        own_share: Weight of the user's own vector.
    """

    def __init__(self, vectors: sp.csr_matrix, history: History, own_share: float = 0.7) -> None:
        self._vectors, self._history, self._own_share = vectors, history, own_share
        self._squares = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
        self._filler = _filler(history)

    def scores(self, block: slice) -> NDArray[np.float64]:
        """See :class:`~materialize.training.baselines.Baseline`."""
        rows = self._history.rows[block]
        own = self._vectors[rows]
        distance = self._squares - 2 * np.asarray((own @ self._vectors.T).toarray())
        distance[np.arange(len(rows)), rows] = np.inf
        distance[:, -1] = np.inf  # the empty row
        k = max(1, min(NEIGHBOURS, distance.shape[1] - 2))
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        starts = np.arange(0, nearest.size + 1, k)
        choice = sp.csr_matrix(
            (np.full(nearest.size, 1 / k), nearest.ravel(), starts), (len(rows), distance.shape[1])
        )
        mixed = self._own_share * own + (1 - self._own_share) * (choice @ self._vectors)
        return np.asarray(mixed.toarray(), np.float64) + self._filler


def tifu_vectors(
    events: ir.Table,
    instant: datetime,
    items: pa.Array,
    *,
    groups: int = 7,
    within: float = 0.9,
    among: float = 0.7,
) -> sp.csr_matrix:
    """TIFU-kNN's user vectors: float64[users, items], users in the order of :class:`History`, an empty row last.

    Args:
        events: ``user_id, item_id, event_time``.
        instant: Events before it count.
        items: Ids of the candidates, in the order of the columns.
        groups: Most groups of baskets.
        within: Decay per basket within a group.
        among: Decay per group.
    """
    before = events.filter(events.event_time < ibis.literal(instant)).semi_join(
        ibis.memtable({ITEM_ID: items}), ITEM_ID
    )
    baskets = (
        before.mutate(day=before.event_time.epoch_seconds() // 86400)
        .select(USER_ID, ITEM_ID, "day")
        .distinct()
        .order_by(USER_ID, "day", ITEM_ID)
        .to_pyarrow()
    )
    everyone = pc.unique(baskets[USER_ID])
    user = pc.index_in(baskets[USER_ID], value_set=everyone).to_numpy().astype(np.int64)
    day = baskets["day"].to_numpy()
    starts = np.concatenate([[True], (np.diff(user) != 0) | (np.diff(day) != 0)])[: len(user)]
    basket = np.cumsum(starts) - 1
    owner = user[starts]
    first = np.searchsorted(owner, np.arange(len(everyone)))
    amount = np.bincount(owner, minlength=len(everyone))
    # Numbered from the newest, so that a last, shorter group is the oldest one.
    age = amount[user] - 1 - (basket - first[user])
    size = -(-amount // groups)
    used = -(-amount // size)
    group, position = np.divmod(age, size[user])
    length = np.minimum(size[user], amount[user] - group * size[user])
    weight = within**position / length * among**group / used[user]
    column = pc.index_in(baskets[ITEM_ID], value_set=items).to_numpy()
    return sp.csr_matrix((weight, (user, column)), shape=(len(everyone) + 1, len(items)))


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
