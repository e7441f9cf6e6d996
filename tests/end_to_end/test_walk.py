"""The whole walk by the command line: three tables in, live look-ups out, and what people do next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.feast_repo import open_feature_store
from materialize import embedded
from materialize.settings import load_settings
from materialize.walk import build_features, find_bundle
from tests.end_to_end.conftest import CUTOFF
from tests.shop import CUTOFF as INSTANT

if TYPE_CHECKING:
    from materialize.progress import Progress
    from tests.end_to_end.conftest import Shop

    Published = tuple[Shop, dict[str, Any]]


def test_three_answers_say_where_they_come_from(published: Published) -> None:
    _, said = published
    answers = list(said["lookups"].values())
    assert [answer["source"] for answer in answers] == ["precomputed", "fallback", "default"]
    assert {answer["generation"] for answer in answers} == {said["generation"]}
    assert all(len(answer["items"]) == 10 and answer["items"][0]["title"] for answer in answers)
    assert said["state"] == "live"


def test_every_stage_is_accounted_for(published: Published) -> None:
    _, said = published
    stages = {stage["stage"]: stage for stage in said["stages"]}
    assert stages["score every user against every item"]["rows"] == 135 * 60
    assert {"ndcg@10", "recall@50"} <= set(said["metrics"]["methods"]["model"])


def test_published_scores_are_the_boosters_own_margins(published: Published, progress: Progress) -> None:
    shop, said = published
    settings = load_settings(shop.folder / "prescore.toml")
    bundle = find_bundle(settings, said["model_id"])
    build = build_features(settings, INSTANT, progress)
    schema = bundle.schema
    users, items, pairs = build.read_users(), build.read_items(), build.read_pairs()
    affinity = build.read_affinity("category")
    user_row = {u: n for n, u in enumerate(users["user_id"].to_pylist())}
    pair_row = {
        key: n
        for n, key in enumerate(zip(*pairs.select(["user_id", "item_id"]).to_pydict().values(), strict=True))
    }
    group_row = {
        key: n
        for n, key in enumerate(
            zip(*affinity.select(["user_id", "category"]).to_pydict().values(), strict=True)
        )
    }
    user = int(next(iter(said["lookups"])))
    matrix = np.full((items.num_rows, len(schema.columns)), np.nan, np.float32)
    for place, column in enumerate(schema.columns):
        for row in range(items.num_rows):
            item, group = items["item_id"][row].as_py(), items["category"][row].as_py()
            where = {
                "user": (users, user_row[user]),
                "item": (items, row),
                "affinity": (affinity, group_row.get((user, group))),
                "pair": (pairs, pair_row.get((user, item))),
            }[column.scope.kind]
            if where[1] is not None:
                matrix[row, place] = column.encode(where[0][column.name].slice(where[1], 1))[0]
    margins = bundle.booster().inplace_predict(matrix, predict_type="margin")
    order = sorted(range(len(margins)), key=lambda row: (-margins[row], row))[:20]
    rows = shop.json(
        "sql", f"select item_id, score from recommendations where user_id = {user} order by rank"
    )
    assert [row["item_id"] for row in rows] == [items["item_id"][row].as_py() for row in order]
    assert np.allclose([row["score"] for row in rows], margins[order], rtol=1e-5)


def test_a_second_run_changes_nothing(published: Published) -> None:
    shop, said = published
    again = shop.json("run", "--cutoff", CUTOFF)
    assert (again["generation"], again["model_id"]) == (said["generation"], said["model_id"])
    assert len(shop.json("generations", "list")) == 1


def test_an_unmodified_feast_client_reads_the_lists_and_a_users_features(published: Published) -> None:
    shop, said = published
    settings = embedded.with_store(load_settings(shop.folder / "prescore.toml"))
    user = int(next(iter(said["lookups"])))
    with open_feature_store(settings) as store:
        answer = store.get_online_features(
            features=store.get_feature_service("picks", allow_cache=True), entity_rows=[{"user_id": user}]
        ).to_dict()
        features = store.get_online_features(
            features=["user_features:user_events_30d"], entity_rows=[{"user_id": user}]
        ).to_dict()
    served = said["lookups"][str(user)]["items"]
    assert answer["item_ids"][0][:10] == [item["item_id"] for item in served]
    assert np.allclose(answer["scores"][0][:10], [item["score"] for item in served])
    assert answer["generation"] == [said["generation"]]
    assert features["user_events_30d"][0] is not None


def test_lookup_sql_and_status_agree(published: Published) -> None:
    shop, said = published
    user = next(iter(said["lookups"]))
    answer = shop.json("lookup", user, "-k", "3")
    rows = shop.json(
        "sql", f"select item_id from recommendations where user_id = {user} and rank <= 3 order by rank"
    )
    assert [item["item_id"] for item in answer["items"]] == [row["item_id"] for row in rows]
    parts = {part["part"]: part["state"] for part in shop.json("status")["parts"]}
    assert parts == {"catalogue": "up", "live generation": "up", "store": "up", "look-up service": "up"}
    gates = shop.json("generations", "show")["gates"]
    assert gates
    assert {gate["verdict"] for gate in gates} == {"passed"}


def test_a_new_cutoff_is_a_new_generation_and_rolls_back(published: Published) -> None:
    shop, said = published
    user = next(iter(said["lookups"]))
    newer = shop.json("score", "--cutoff", "2024-07-02")
    assert newer["generation"] != said["generation"]
    assert newer["slot"] == "b"
    back = shop.json("generations", "rollback")
    assert back["generation"] == said["generation"]
    assert shop.json("lookup", user)["generation"] == said["generation"]
    again = shop.json(
        "score", "--cutoff", "2024-07-02", "--override", "rolled_back", "--reason", "it was fine"
    )
    assert again["generation"] == newer["generation"]
    shop.json("generations", "activate", said["generation"])


def test_a_rejected_generation_changes_nothing_that_is_served(published: Published) -> None:
    shop, said = published
    sleeper = list(said["lookups"])[1]
    on_demand = shop.json("lookup", sleeper)["items"]
    for cutoff, gate in (("2024-07-03", "score_shift"), ("2024-06-30", "cutoff_order")):
        failed = shop.prescore("score", "--cutoff", cutoff, code=3, PRESCORE_GATES__MAX_SCORE_SHIFT="0")
        assert gate in failed.stderr
        assert shop.json("generations", "show")["generation"] == said["generation"]
        assert shop.json("lookup", sleeper)["items"] == on_demand


def test_older_features_never_replace_newer_ones(published: Published) -> None:
    shop, _ = published
    noted = shop.prescore("features", "materialize", "--cutoff", "2024-06-20")
    assert "newer features" in noted.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["run", "--cutoff", "tomorrow"], 2, ["cut-off", "tomorrow", "2017-12-04"]),
        (["run", "--cutoff", "2999-01-01"], 2, ["lies in the future"]),
        (["run", "--cutoff", "2020-01-01"], 2, ["before the cut-off"]),
        (["generations", "show", "nothing"], 2, ["nothing"]),
        (["generations", "activate", "nothing"], 2, ["nothing"]),
        (["sql", "drop table recommendations"], 2, ["only reading is allowed", "DROP"]),
        (["sql", "select * from nowhere"], 2, ["nowhere"]),
        (["score", "--model", "0123456789abcdef"], 2, ["no model", "prescore models list"]),
        (["score", "--override", "luck", "--reason", "x"], 2, ["luck"]),
        (["--settings", "nowhere.toml", "status"], 2, ["nowhere.toml", "prescore init"]),
    ],
)
def test_mistakes_are_one_paragraph(
    published: Published, arguments: list[str], code: int, parts: list[str]
) -> None:
    shop, _ = published
    failed = shop.prescore(*arguments, code=code)
    for part in parts:
        assert part in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_broken_table_is_named_and_what_is_served_stays(published: Published) -> None:
    shop, said = published
    user = next(iter(said["lookups"]))
    events = shop.folder / "events.parquet"
    kept = events.read_bytes()
    table = pq.read_table(events)
    try:
        pq.write_table(table.rename_columns(["user_id", "item", "event_time", "value"]), events)
        failed = shop.prescore("run", "--cutoff", CUTOFF, code=2)
        assert "item_id" in failed.stderr
        assert "item" in failed.stderr
    finally:
        events.write_bytes(kept)
    assert shop.json("lookup", user)["generation"] == said["generation"]


def test_a_store_that_cannot_be_reached_is_named_without_its_password(published: Published) -> None:
    shop, _ = published
    failed = shop.prescore(
        "score", "--cutoff", CUTOFF, code=5, PRESCORE_STORE__URL="redis://:hunter2@127.0.0.1:1"
    )
    assert "127.0.0.1:1" in failed.stderr
    assert "hunter2" not in failed.stderr + failed.stdout
    told = shop.prescore("status", code=5, PRESCORE_STORE__URL="redis://:hunter2@127.0.0.1:1")
    assert "down" in told.stdout
    assert "hunter2" not in told.stderr + told.stdout


def test_a_port_in_use_is_named(published: Published) -> None:
    shop, _ = published
    port = json.loads((shop.folder / ".prescore" / "run" / "service.json").read_bytes())["port"]
    failed = shop.prescore("serve", "--port", str(port), code=2)
    assert str(port) in failed.stderr
