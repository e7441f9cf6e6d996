"""TIFU-kNN's vectors and neighbours, worked by hand."""

from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pyarrow as pa
from scipy import sparse

from features.definitions.baskets import basket_vectors, baskets, mixed, similar_users

INSTANT = datetime(2024, 1, 1, tzinfo=UTC)


def test_vectors_of_a_hand_worked_user() -> None:
    """Five baskets in two groups: the newest three, then the older two; two events of a day are one basket."""
    rows = [
        (1, 0, 1.2),
        (1, 1, 1.3),
        (1, 0, 1.4),
        (1, 0, 2.2),
        (1, 1, 3.2),
        (1, 0, 4.2),
        (1, 1, 5.2),
        (2, 1, 9.0),
    ]
    users, items, ages = zip(*rows, strict=True)
    times = pa.array([INSTANT - timedelta(days=age) for age in ages], pa.timestamp("us", "UTC"))
    events = ibis.duckdb.connect().create_table(
        "events", pa.table({"user": users, "item": items, "event_time": times})
    )
    found = baskets(events, "user", "item").to_pyarrow()
    assert found.num_rows == 7
    user, day, item = (found[name].to_numpy() for name in ("user", "day", "item"))
    vectors = basket_vectors(user, day, item, (4, 2), groups=2, within=0.5, among=0.1).toarray()
    newest = np.array([1 + 0.5, 1 + 0.25]) / 3
    older = np.array([1, 0.5]) / 2
    np.testing.assert_allclose(vectors[1], (newest + 0.1 * older) / 2, rtol=1e-6)
    np.testing.assert_allclose(vectors[2], [0, 1])
    assert not vectors[[0, 3]].any()


def test_the_nearest_users_are_mixed_in_but_not_oneself() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((420, 6)).astype(np.float32)
    vectors = sparse.csr_matrix(dense)
    places = np.arange(0, 420, 1)
    nearest = similar_users(vectors[[7, 9]], np.array([7, 9]), vectors, places)
    for row, user in enumerate((7, 9)):
        order = np.argsort(((dense - dense[user]) ** 2).sum(axis=1))
        assert set(nearest[row].indices) == set(order[1:301].tolist())
    found = mixed(vectors[[7, 9]], nearest, vectors).toarray()
    expected = 0.7 * dense[7] + 0.3 * dense[nearest[0].indices].mean(axis=0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    some = similar_users(vectors[[7]], np.array([7]), vectors[[1, 3]], np.array([1, 3]))
    assert some.toarray().sum() == 1
    few = similar_users(vectors[[7]], np.array([7]), vectors, places, amount=5)
    assert few.nnz == 5
    assert set(few.indices) < set(nearest[0].indices)
