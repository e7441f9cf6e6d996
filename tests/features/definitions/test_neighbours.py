"""The collaborative features against a plain computation with dense matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pytest
from scipy import sparse

from features.build import build_features
from features.definitions import neighbours
from features.definitions.neighbours import neighbour_scores, neighbours_per_user
from tests.features.conftest import CUTOFF

if TYPE_CHECKING:
    from pathlib import Path

    from tests.features.conftest import ThreeTables

USERS, ITEMS = 40, 30


def plainly(seen: np.ndarray, learned: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both measures of every user and item, from dense matrices."""
    offered = np.isin(np.arange(ITEMS), candidates) & (learned.sum(axis=0) >= neighbours.LEAST_USERS)
    seen, learned = seen * offered, learned * offered
    norms = np.sqrt(np.maximum(learned.sum(axis=0), 1))
    cosines = (learned.T @ learned) / np.outer(norms, norms)
    np.fill_diagonal(cosines, 0)
    knn = seen @ cosines / np.sqrt(np.maximum(seen.sum(axis=1), 1))[:, None]
    inverse = np.linalg.inv(learned.T @ learned + neighbours.EASE_PENALTY * np.eye(ITEMS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return knn, seen @ weights


@pytest.mark.parametrize(("per_user", "cells"), [(1000, 10**6), (6, 10**6), (6, 100)])
def test_scores_are_those_of_the_plain_computation(
    monkeypatch: pytest.MonkeyPatch, per_user: int, cells: int
) -> None:
    monkeypatch.setattr(neighbours, "_DENSE_CELLS", cells)
    monkeypatch.setattr(neighbours, "EASE_PENALTY", 5.0)
    rng = np.random.default_rng(per_user)
    seen = (rng.random((USERS, ITEMS)) < rng.random(ITEMS) * 0.6).astype(np.float64)
    seen[7] = 0
    candidates = np.sort(rng.choice(ITEMS, 20, replace=False)).astype(np.int32)
    learned = seen * (rng.random(seen.shape) < 0.9)
    habits, taught = (
        sparse.csr_matrix((matrix * rng.random(seen.shape)).astype(np.float32))[:, candidates]
        for matrix in (seen, learned)
    )
    batches = neighbour_scores(habits, taught, candidates, per_user=per_user)
    rows = [row for batch in batches for row in batch.to_pylist()]
    keys = [(row["user_no"], row["item_no"]) for row in rows]
    assert keys == sorted(set(keys))
    assert not any(user == 7 for user, _ in keys)
    own, others = habits.toarray(), taught.toarray()
    active = np.flatnonzero(others.any(axis=1))
    tifu = np.zeros((USERS, ITEMS))
    for who in range(USERS):  # with fewer users than neighbours, everybody else is one
        tifu[who, candidates] = 0.7 * own[who] + 0.3 * others[active[active != who]].mean(axis=0)
    knn, ease = plainly(seen, learned, candidates)
    known = candidates[learned[:, candidates].sum(axis=0) >= neighbours.LEAST_USERS]
    compared = [row for row in rows if row["item_no"] in known]
    for row in rows:
        if row not in compared:
            assert [row["knn"], row["ease"], row["als"]] == [None] * 3
            baskets = own[row["user_no"], candidates == row["item_no"]]
            assert row["tifu"] == pytest.approx(0.7 * baskets[0])
    rows = compared
    keys = [(row["user_no"], row["item_no"]) for row in rows]
    for row in rows:
        place = row["user_no"], row["item_no"]
        assert row["tifu"] == pytest.approx(tifu[place], rel=1e-4, abs=1e-6)
        assert row["knn"] == pytest.approx(knn[place], rel=1e-4, abs=1e-6)
        assert row["ease"] == pytest.approx(ease[place], rel=1e-4, abs=1e-6)
    tastes, traits = neighbours._latent_vectors(
        *(sparse.csr_matrix(matrix[:, known].astype(np.float32)) for matrix in (learned, seen))
    )
    als = np.zeros_like(knn)
    als[:, known] = tastes @ traits.T
    for row in rows:
        assert row["als"] == pytest.approx(als[row["user_no"], row["item_no"]], rel=1e-4, abs=1e-5)
    for user in np.flatnonzero(seen.sum(axis=1)):
        found = {item for who, item in keys if who == user}
        had = set(known[seen[user, known] > 0].tolist())
        assert had <= found, "what the user had is scored too"
        new = [item for item in known.tolist() if item not in had]
        nearest = set()
        for scores in (knn[user], ease[user], als[user], tifu[user]):
            order = sorted((-scores[item], item) for item in new if scores[item] > 0)
            nearest |= {item for _, item in order[: -(-per_user // 4)]}
        assert found - had == nearest


def test_many_users_get_fewer_neighbours_each_and_then_none() -> None:
    assert [neighbours_per_user(300, users) for users in (0, 1000, 100_000, 1_000_000)] == [300, 300, 100, 0]
    assert neighbours_per_user(20, 1000) == 20
    nobody = sparse.csr_matrix((1, 1), dtype=np.float32)
    assert list(neighbour_scores(nobody, nobody, np.zeros(1, np.int32), per_user=0)) == []


def test_neighbours_are_pairs_without_a_history(tables: ThreeTables, tmp_path: Path) -> None:
    tables.feature_settings["neighbours"] = 0
    plain = build_features(tables.write().settings, CUTOFF, tmp_path / "plain")
    tables.feature_settings["neighbours"] = 6
    build = build_features(tables.settings, CUTOFF, tmp_path / "near")
    again = build_features(tables.settings, CUTOFF, tmp_path / "again")
    assert build.tables == again.tables, "the same bytes"
    assert build.schema.names == [*plain.schema.names, "pair_knn", "pair_ease", "pair_als", "pair_tifu"]
    pairs = build.read_pairs()
    assert pairs.num_rows > plain.rows("pair.parquet")
    assert build.read_seen().num_rows == plain.rows("pair.parquet")
    assert build.read_seen().equals(plain.read_seen())
    new = pairs.filter(pc.is_null(pairs["pair_events"]))
    assert new["pair_knn"].null_count == 0
    assert max(new.group_by("user_id").aggregate([([], "count_all")])["count_all"].to_pylist()) <= 6
    order = [("user_hash", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")]
    assert pairs.equals(pairs.sort_by(order))
