from datetime import UTC, datetime, timedelta

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pytest

from materialize.training.baselines import rank
from materialize.training.collaborative_baselines import (
    Als,
    Ease,
    ItemKnn,
    TifuKnn,
    collaborative_baselines,
    tifu_vectors,
)
from materialize.training.history import History

INSTANT = datetime(2024, 1, 1, tzinfo=UTC)
NOTHING = np.zeros(0, np.int64)


def open_events(rows: list[tuple[int, int, float]]) -> ir.Table:
    users, items, ages = zip(*rows, strict=True)
    times = pa.array([INSTANT - timedelta(days=age) for age in ages], pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": users, "item_id": items, "event_time": times})
    return ibis.duckdb.connect().create_table("events", table)


@pytest.fixture(scope="module")
def two_tastes() -> tuple[ir.Table, History]:
    """Users 0-9 had items 0-5, users 10-19 items 6-11, each all but the one of their number; 20 is new."""
    rows = [
        (user, 6 * (user >= 10) + item, 5.0 + item)
        for user in range(20)
        for item in range(6)
        if item != user % 10 % 6
    ]
    events = open_events(rows)
    return events, History.read(events, INSTANT, pa.array(range(21)), pa.array(range(12)))


@pytest.mark.parametrize("name", ["item_knn", "ease", "als"])
def test_each_finds_the_item_that_is_missing_from_a_users_taste(
    two_tastes: tuple[ir.Table, History], name: str
) -> None:
    events, history = two_tastes
    baseline = collaborative_baselines(events, INSTANT, pa.array(range(12)), history, seed=0)[name]()
    seen = np.flatnonzero(history.counts[history.rows].toarray())
    ranked = rank(baseline, 21, 12, seen, 1)[:20, 0]
    assert ranked.tolist() == [6 * (user >= 10) + user % 10 % 6 for user in range(20)]


def test_item_knn_is_the_sum_of_cosines(two_tastes: tuple[ir.Table, History]) -> None:
    _, history = two_tastes
    had = (history.counts.toarray() > 0).astype(float)
    norms = np.sqrt((had**2).sum(axis=0))
    cosine = had.T @ had / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    np.testing.assert_allclose(ItemKnn(history).scores(slice(0, 21)), had[history.rows] @ cosine, atol=1e-6)


def test_ease_is_the_constrained_least_squares_solution(two_tastes: tuple[ir.Table, History]) -> None:
    """Column by column: ridge regression of an item on the others."""
    _, history = two_tastes
    had = (history.counts.toarray() > 0).astype(float)
    penalty, expected = 3.0, np.zeros((12, 12))
    for item in range(12):
        others = np.delete(np.arange(12), item)
        gram = had[:, others].T @ had[:, others] + penalty * np.eye(11)
        expected[others, item] = np.linalg.solve(gram, had[:, others].T @ had[:, item])
    np.testing.assert_allclose(
        Ease(history, penalty).scores(slice(0, 21)), had[history.rows] @ expected, atol=1e-6
    )


def test_als_is_deterministic(two_tastes: tuple[ir.Table, History]) -> None:
    _, history = two_tastes
    assert np.array_equal(Als(history, 1).scores(slice(0, 5)), Als(history, 1).scores(slice(0, 5)))


def test_tifu_mixes_in_the_neighbours(two_tastes: tuple[ir.Table, History]) -> None:
    """With fewer users than neighbours, everybody else is one; a user without a history has the others alone."""
    events, history = two_tastes
    vectors = tifu_vectors(events, INSTANT, pa.array(range(12)))
    scores = TifuKnn(vectors, history).scores(slice(0, 21))
    others = np.delete(np.arange(20), 3)
    expected = 0.7 * vectors[3].toarray() + 0.3 * vectors[others].mean(axis=0)
    np.testing.assert_allclose(scores[3], np.asarray(expected)[0], rtol=1e-5)
