"""Why a pair has its score: the same contributions as XGBoost's own, with each feature's value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
import xgboost as xgb

from tests.serving_lookup.published_world import MODEL, PRECOMPUTED

if TYPE_CHECKING:
    from tests.serving_lookup.published_world import RunningService, World


def explain_path(user: Any, item: Any) -> str:
    return f"/v1/models/{MODEL}/users/{quote(str(user), safe='')}/explain?item={quote(str(item), safe='')}"


def values_of(world: World, user_index: int, item_index: int) -> dict[str, Any]:
    """What the tables say of a pair, by feature."""
    tables = world.tables
    user, item = (
        table.slice(i, 1).to_pylist()[0]
        for table, i in ((tables.users, user_index), (tables.items, item_index))
    )
    visits = [
        row["visits"]
        for row in tables.affinities.to_pylist()
        if (row["user_id"], row["category"]) == (user["user_id"], item["category"])
    ]
    bought = [
        row["bought"]
        for row in tables.pairs.to_pylist()
        if (row["user_id"], row["item_id"]) == (user["user_id"], item["item_id"])
    ]
    return {
        **{name: user[name] for name in ("age", "segment")},
        **{name: item[name] for name in ("price", "kind")},
        "visits": visits[0] if visits else None,
        "bought": bought[0] if bought else None,
    }


def contributions_of_xgboost(world: World, values: dict[str, Any]) -> Any:
    row = []
    for column in world.tables.schema.columns:
        value = values[column.name]
        if column.vocabulary is not None:
            value = column.vocabulary.index(value) if value in column.vocabulary else None
        row.append(np.nan if value is None else value)
    data = xgb.DMatrix(
        np.array([row], np.float32),
        feature_names=world.tables.schema.names,
        feature_types=[column.feature_type for column in world.tables.schema.columns],
        enable_categorical=True,
    )
    return world.tables.booster(1).predict(data, pred_contribs=True)[0]


def test_contributions_are_xgboosts(world: World, service: RunningService) -> None:
    pairs = world.tables.pairs.to_pylist()[5]
    known = [world.tables.user_ids.index(pairs["user_id"]), world.tables.item_ids.index(pairs["item_id"])]
    for user, item in (known, (0, 0), (9, 77), (PRECOMPUTED + 1, 4)):
        user_id, item_id = world.tables.user_ids[user], world.tables.item_ids[item]
        answer = service.get(explain_path(user_id, item_id)).json()
        values = values_of(world, user, item)
        expected = contributions_of_xgboost(world, values)
        found = {part["feature"]: part for part in answer["contributions"]}
        assert {name: part["value"] for name, part in found.items()} == values
        assert found["visits"]["scope"] == "affinity:category"
        parts = [found[name]["contribution"] for name in world.tables.schema.names]
        np.testing.assert_allclose([*parts, answer["expected"]], expected, rtol=1e-4, atol=1e-5)
        assert answer["score"] == pytest.approx(expected.sum(), rel=1e-4, abs=1e-5)
        sizes = [abs(part["contribution"]) for part in answer["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert answer["title"] == world.tables.items["title"][item].as_py()
        assert answer["generation"] == "g1"


def test_what_cannot_be_explained_is_said(world: World, service: RunningService) -> None:
    user, item = world.tables.user_ids[0], world.tables.item_ids[0]
    stranger = 424242 if world.tables.id_type == "int64" else "no such one"
    for path, status, code in (
        (explain_path(user, stranger), 404, "unknown-item"),
        (explain_path(stranger, item), 404, "unknown-user"),
        (explain_path(user, item).split("?", maxsplit=1)[0], 400, "item"),
        (explain_path(user, item) + "&k=3", 400, "item"),
        (explain_path(user, ""), 400, "id"),
    ):
        problem = service.get(path)
        assert (problem.status_code, problem.json()["type"]) == (status, f"urn:prescore:problem:{code}"), path
