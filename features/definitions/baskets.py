"""TIFU-kNN: a user's own decayed baskets, mixed with those of the most similar users.

A page of sparse sums (Hu et al. 2020, https://arxiv.org/abs/2006.00556). A basket is a day. A user's baskets are cut
into groups of equal length; older baskets count less within a group, older groups less among groups. It knows
habits, and what people with the same habits have lately turned to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

NEIGHBOURS = 300
"""Most similar users that are mixed in, all alike."""

OWN_SHARE = 0.7
"""Weight of the user's own baskets."""


def baskets(events: ir.Table, user: str, item: str) -> ir.Table:
    """The items of each basket: distinct ``user``, ``day``, ``item``, sorted.

    Args:
        events: With an ``event_time``.
        user: Column that tells users apart.
        item: Column that tells items apart.
    """
    day = (events.event_time.epoch_seconds() // 86400).cast("int32")
    return events.select(user, item, day=day).distinct().select(user, "day", item).order_by(user, "day", item)


def basket_vectors(
    users: NDArray[np.int32],
    days: NDArray[np.int32],
    items: NDArray[np.int32],
    shape: tuple[int, int],
    *,
    groups: int = 7,
    within: float = 0.9,
    among: float = 0.7,
) -> sparse.csr_matrix:
    """Sum up each user's baskets: float32[users, items] of the given shape, each basket a vector of ones.

    Args:
        users: int[n], ascending: rows of the result.
        days: int[n], ascending for each user.
        items: int[n]: columns of the result.
        shape: Users, items.
        groups: Most groups of baskets.
        within: Decay per basket within a group.
        among: Decay per group.
    """
    first = np.concatenate([[True], (np.diff(users) != 0) | (np.diff(days) != 0)])[: len(users)]
    basket = np.cumsum(first) - 1
    amount = np.bincount(users[first], minlength=shape[0])
    # Numbered from the newest, so that a last, shorter group is the oldest one.
    age = np.cumsum(amount)[users] - 1 - basket
    size = np.maximum(-(-amount // groups), 1)
    used = -(-amount // size)
    group, position = np.divmod(age, size[users])
    length = np.minimum(size[users], amount[users] - group * size[users])
    weight = within**position / length * among**group / used[users]
    return sparse.csr_matrix((weight.astype(np.float32), (users, items)), shape=shape)


def similar_users(
    own: sparse.csr_matrix,
    numbers: NDArray[np.int64],
    others: sparse.csr_matrix,
    places: NDArray[np.int64],
    amount: int = NEIGHBOURS,
) -> sparse.csr_matrix:
    """Weights of the users that are nearest by Euclidean distance: float32[users, others], rows sum to 1.

    Args:
        own: float32[users, items].
        numbers: int64[users]: who they are.
        others: float32[others, items], with whom they are compared.
        places: int64[others]: who these are, ascending; nobody is near to themselves.
        amount: How many are near.
    """
    squares = np.asarray(others.multiply(others).sum(axis=1)).ravel()
    distance = squares - 2 * (own @ others.T).toarray()
    myself = np.searchsorted(places, numbers)
    myself[myself == len(places)] = 0
    same = np.flatnonzero(places[myself] == numbers)
    distance[same, myself[same]] = np.inf
    k = max(1, min(amount, len(places) - 1))
    nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
    nearest.sort(axis=1)
    weights = np.full(nearest.size, 1 / k, np.float32)
    return sparse.csr_matrix(
        (weights, nearest.ravel(), np.arange(0, nearest.size + 1, k)), shape=(own.shape[0], len(places))
    )


def mixed(own: sparse.csr_matrix, nearest: sparse.csr_matrix, others: sparse.csr_matrix) -> sparse.csr_matrix:
    """Own baskets and those of similar users together: float32[users, items].

    Args:
        own: float32[users, items].
        nearest: Result of :func:`similar_users`.
        others: float32[others, items], as many items.
    """
    return OWN_SHARE * own + (1 - OWN_SHARE) * (nearest @ others)
