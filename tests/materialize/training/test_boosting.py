import os
import signal
from typing import Literal

import numpy as np
import pytest
import xgboost
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from features.errors import RetryableError
from features.schema import ITEM, USER, FeatureColumn, FeatureSchema
from materialize.cluster import open_cluster
from materialize.settings import ClusterSettings
from materialize.training.boosting import boost, gain_by_feature, model_bytes
from materialize.training.training_rows import TrainingRows
from materialize.training_settings import TrainingSettings

SCHEMA = FeatureSchema(
    (*(FeatureColumn(c, USER) for c in "abc"), FeatureColumn("kind", ITEM, ("x", "y", "z")))
)


def some_rows(n: int = 2000, seed: int = 0) -> TrainingRows:
    rng = np.random.default_rng(seed)
    values = rng.random((n, 4)).astype(np.float32)
    values[:, 3] = rng.integers(0, 3, n)
    values[rng.random((n, 4)) < 0.1] = np.nan
    chance = 0.1 + 0.6 * (np.nan_to_num(values[:, 0]) > 0.5) * (values[:, 3] == 1)
    groups = np.sort(rng.integers(0, n // 20, n))
    return TrainingRows(values, (rng.random(n) < chance).astype(np.float32), np.ones(n, np.float32), groups)


@pytest.mark.parametrize("objective", ["binary:logistic", "rank:pairwise"])
def test_the_same_rows_give_the_same_bytes(
    client: Client, objective: Literal["binary:logistic", "rank:pairwise"]
) -> None:
    settings = TrainingSettings(objective=objective, depth=3)
    found = {model_bytes(boost(client, some_rows(), SCHEMA, settings, rounds=5).booster) for _ in range(2)}
    with open_cluster(ClusterSettings(kind="local", workers=2)) as other:
        found.add(model_bytes(boost(other, some_rows(), SCHEMA, settings, rounds=5).booster))
    assert len(found) == 1


def test_it_learns_what_one_process_learns(client: Client) -> None:
    rows = some_rows()
    settings = TrainingSettings(depth=3, eta=0.3)
    booster = boost(client, rows, SCHEMA, settings, rounds=20).booster
    types = [column.feature_type for column in SCHEMA.columns]
    matrix = xgboost.QuantileDMatrix(
        rows.values,
        label=rows.labels,
        feature_names=SCHEMA.names,
        feature_types=types,
        enable_categorical=True,
    )
    own = xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.3,
            "max_delta_step": 1,
            "min_child_weight": min(20.0, float(rows.labels.sum()) / 50),
            "nthread": 1,
        },
        matrix,
        20,
    )
    ours, theirs = booster.inplace_predict(rows.values), own.inplace_predict(rows.values)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
    gains = gain_by_feature(booster)
    assert list(gains)[:2] in (["a", "kind"], ["kind", "a"])
    assert sum(gains.values()) == pytest.approx(1)


def test_it_stops_early_and_reports_each_round(client: Client) -> None:
    seen: list[int] = []
    settings = TrainingSettings(depth=6, eta=0.5, early_stopping_rounds=3)
    boosted = boost(
        client,
        some_rows(),
        SCHEMA,
        settings,
        rounds=100,
        validation=some_rows(seed=1),
        on_round=lambda n, _: seen.append(n),
    )
    assert boosted.rounds < len(boosted.curve) < 100
    assert boosted.rounds == int(np.argmin(boosted.curve)) + 1
    assert seen
    assert seen == sorted(seen)
    assert b"best_iteration" not in model_bytes(boosted.booster)


def test_fewer_rows_than_workers(client: Client) -> None:
    rows = TrainingRows(
        np.array([[0, 0, 0, 0]], np.float32),
        np.ones(1, np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
    )
    assert boost(client, rows, SCHEMA, TrainingSettings(), rounds=2).rounds == 2


def test_a_newer_client_of_the_same_process_does_not_matter(client: Client) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as newer, Client(newer):
        assert boost(client, some_rows(), SCHEMA, TrainingSettings(), rounds=2).rounds == 2


def test_a_failure_on_the_cluster_is_explained(client: Client) -> None:
    rows = some_rows(100)
    wrong = TrainingRows(rows.values, rows.labels + 7, rows.weights, rows.groups)
    with pytest.raises(RetryableError, match="training failed on the cluster"):
        boost(client, wrong, SCHEMA, TrainingSettings(), rounds=2)


def test_a_lost_worker_is_a_failure_and_not_a_standstill() -> None:
    with open_cluster(ClusterSettings(kind="local", workers=2)) as own:
        pids = list(own.run(os.getpid).values())

        def kill(number: int, _metric: float) -> None:
            if number == 2:
                os.kill(pids[0], signal.SIGKILL)

        with pytest.raises(RetryableError, match="training failed on the cluster"):
            boost(own, some_rows(20_000), SCHEMA, TrainingSettings(depth=6), rounds=5000, on_round=kill)
        own.wait_for_workers(2, timeout=30)
        assert boost(own, some_rows(), SCHEMA, TrainingSettings(), rounds=2).rounds == 2


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 5))
def test_parts_cut_no_list(sizes: list[int], n: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    blank = np.zeros(len(groups), np.float32)
    parts = TrainingRows(blank[:, None], blank, blank, groups).split(n)
    assert len(parts) == n
    assert np.array_equal(np.concatenate([groups[part] for part in parts]), groups)
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(sizes)
