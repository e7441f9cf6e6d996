import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import xgboost
from distributed import Client

from features.build import build_features
from features.errors import SourceError
from features.schema import PAIR
from features.sources import open_sources
from features.training_set import training_matrix
from materialize.model_bundle import ModelBundle
from materialize.progress import NoProgress
from materialize.settings import Settings
from materialize.training.evaluate import EvaluationTask, evaluate_model
from materialize.training.label_windows import LabelWindow
from materialize.training.train import train_model
from tests.materialize.training.small_tables import CUTOFF, films, grocery, write_tables

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


class Stages(NoProgress):
    def __init__(self) -> None:
        self.finished: list[str] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, stage: str, rows: int, seconds: float) -> None:  # noqa: ARG002  # the protocol's names
        self.finished.append(stage)


def test_the_bundle_says_what_was_measured(bundle: ModelBundle) -> None:
    metrics = bundle.metrics
    # A shop as small as this one may be served best by a baseline, which then stands in for the forest.
    methods = [name for name in metrics["methods"] if name != "forest"]
    simple = ["popularity", "recent_popularity", "own_decayed_frequency"]
    assert methods == ["model", *simple, "pair_knn", "pair_ease", "pair_als", "pair_tifu"]
    for method in metrics["methods"].values():
        for measured in (method, method["new_items"]):
            for name in ("ndcg@10", "recall@10", "recall@50", "hit_rate@10"):
                low, high = measured["intervals"][name]
                assert 0 <= low <= measured[name] <= high <= 1
            assert measured["novelty@10"] > 0
            assert 0 <= measured["coverage@10"] <= 1
        assert sum(segment["users"] for segment in method["segments"].values()) == metrics["window"]["users"]
    assert metrics["methods"]["model"]["ndcg@10"] > 1.2 * metrics["methods"]["popularity"]["ndcg@10"]
    assert metrics["exclude_seen"]["value"] is bundle.exclude_seen is False
    assert metrics["window"]["end"] == CUTOFF.isoformat()
    choices = {choice["name"]: choice["value"] for choice in metrics["choices"]}
    if (choices["stand_in"], choices["lift"]) == ("none", "none"):
        assert metrics["training"]["rounds"] == bundle.booster().num_boosted_rounds()
    assert choices["new_items"] in {"forest", *methods}
    older, newest = metrics["validation"]
    assert older["end"] == newest["start"] == metrics["window"]["start"]
    assert newest["served"].keys() == newest["new_items"].keys() == set(methods)
    assert len(bundle.lineage.feature_builds) == 4
    assert max(bundle.lineage.feature_builds) == "20240603T000000Z"


def test_training_again_finds_the_bundle_and_training_anew_gives_its_id(
    bundle: ModelBundle, settings: Settings, client: Client
) -> None:
    stages = Stages()
    assert train_model(settings, CUTOFF, client, stages) == bundle
    assert stages.finished == ["build features of past windows"]
    (bundle.path / "model.ubj").write_bytes(b"damaged")
    again = train_model(settings, CUTOFF, client, stages)
    assert (again.id, again.metrics) == (bundle.id, bundle.metrics)
    rounds, curve = len(stages.notes), bundle.metrics["training"]["curve"]
    assert stages.notes[: len(curve)] == [
        f"round {n}: logloss {metric:.5f}" for n, metric in enumerate(curve, 1)
    ]
    assert rounds == len(curve) + bundle.metrics["training"]["rounds"]
    assert stages.finished[1:] == [
        "build features of past windows",
        "label the windows",
        "join the training set",
        "train on the cluster",
        "evaluate beside baselines",
    ]


def test_a_ranking_objective(settings: Settings, client: Client, bundle: ModelBundle) -> None:
    training = settings.training.model_copy(update={"objective": "rank:pairwise", "windows": 1})
    other = train_model(settings.model_copy(update={"training": training}), CUTOFF, client)
    assert other.id != bundle.id
    assert other.metrics["methods"]["model"]["ndcg@10"] > other.metrics["methods"]["popularity"]["ndcg@10"]


def test_films_are_not_recommended_twice(tmp_path: Path, client: Client) -> None:
    bundle = train_model(write_tables(tmp_path, films()), CUTOFF, client)
    assert bundle.exclude_seen
    assert bundle.metrics["exclude_seen"]["reason"].startswith("users hardly ever repeat: 0.0%")
    assert bundle.schema.item_id_type == "string"
    for method in bundle.metrics["methods"].values():
        assert method["ndcg@10"] == method["new_items"]["ndcg@10"]


def test_a_row_budget_thins_users_out(settings: Settings, client: Client, bundle: ModelBundle) -> None:
    training = settings.training.model_copy(update={"max_rows": 1500})
    thin = train_model(settings.model_copy(update={"training": training}), CUTOFF, client)
    assert 0 < thin.metrics["training"]["rows"] < bundle.metrics["training"]["rows"] / 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(u, i, 40 + 6 * u) for u in range(20) for i in range(5)], "evaluation window is empty"),
        ([(u, i, a) for u in range(9) for i in range(3) for a in (10, 40, 70, 120)], "nothing to learn from"),
        ([(u, u % 2, a) for u in range(5) for a in (0.5, 1, 1.5)], "too little history"),
    ],
)
def test_data_that_cannot_be_learned_from_is_explained(
    tmp_path: Path, client: Client, rows: list[tuple[object, object, float]], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        train_model(write_tables(tmp_path, rows), CUTOFF, client)


def test_a_few_days_of_events_are_enough(tmp_path: Path, client: Client) -> None:
    rows = [(user, item, age / 20) for user, item, age in grocery()]
    bundle = train_model(write_tables(tmp_path, rows), CUTOFF, client)
    assert bundle.lineage.parameters["window_days_used"] == 2
    assert bundle.metrics["methods"]["model"]["ndcg@10"] > 0


def test_the_models_lists_are_those_of_brute_force(settings: Settings, bundle: ModelBundle) -> None:
    window = LabelWindow(CUTOFF - timedelta(days=28), CUTOFF)
    with open_sources(settings) as sources:
        build = build_features(settings, window.start, settings.features_path, sources=sources)
        task = EvaluationTask.prepare(sources.events, build, window, exclude_seen=False)
    users, items = len(task.space.users), len(task.space.items)
    every = task.space.decode(np.arange(users * items))
    starts = pa.repeat(pa.scalar(window.start, pa.timestamp("us", "UTC")), users * items)
    matrix = training_matrix(every.append_column("event_timestamp", starts), [build], bundle.schema)
    margins = bundle.booster().inplace_predict(matrix, predict_type="margin").reshape(users, items)
    expected = np.argsort(-margins, axis=1, kind="stable")
    served, new = task.rank_model(bundle.booster(), bundle.schema)
    assert np.array_equal(served.item_index, expected[:, :50])
    margins.reshape(-1)[task.seen] = -np.inf
    unseen = np.argsort(-margins, axis=1, kind="stable")
    unseen[np.take_along_axis(margins, unseen, axis=1) == -np.inf] = -1
    assert np.array_equal(new.item_index, unseen[:, :50])


def test_a_planted_leak_is_seen_in_the_measures(settings: Settings, tmp_path: Path) -> None:
    """A build as of the window's end, passed off as one of its start: the model on its pair counts looks too good."""
    window = LabelWindow(CUTOFF - timedelta(days=28), CUTOFF)
    found: dict[str, Any] = {}
    with open_sources(settings) as sources:
        for name, instant in (("honest", window.start), ("leaking", window.end)):
            build = build_features(settings, instant, tmp_path / name, sources=sources)
            task = EvaluationTask.prepare(sources.events, build, window, exclude_seen=False)
            schema = dataclasses.replace(build.schema, columns=tuple(build.schema.of(PAIR)))
            recency = schema.names.index("pair_recency_days")
            values = np.random.default_rng(0).random((500, len(schema.names))).astype(np.float32) * 200
            values[::5] = np.nan
            matrix = xgboost.DMatrix(
                values, label=-np.nan_to_num(values[:, recency], nan=500), feature_names=schema.names
            )
            booster = xgboost.train({"max_depth": 6, "eta": 1}, matrix, 5)
            found[name] = evaluate_model(task, booster, schema).served.means()["recall@10"]
    assert found["honest"] < 0.9
    assert found["leaking"] > 0.999


def test_events_after_the_cutoff_change_nothing(tmp_path: Path, client: Client) -> None:
    settings = write_tables(tmp_path, grocery())
    cutoff = CUTOFF - timedelta(days=20)
    before = train_model(settings, cutoff, client)
    with duckdb.connect() as connection:
        file = tmp_path / "events.parquet"
        connection.execute(
            f"COPY (FROM '{file}' WHERE event_time < '{cutoff}') TO '{tmp_path / 'cut.parquet'}'"
        )
    file.unlink()
    (tmp_path / "cut.parquet").rename(file)
    assert train_model(settings, cutoff, client) == before
