"""Explanations equal XGBoost's ``pred_contribs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    params=st.sampled_from(
        [{}, {"max_depth": 7}, {"booster": "dart", "rate_drop": 0.5}, {"max_cat_to_onehot": 1}]
    ),
)
def test_contributions_are_those_of_xgboost(
    world: Callable[..., Any], seed: int, params: dict[str, Any]
) -> None:
    case = world(seed, **params)
    catalogue = case.bind()
    u, i = 3, 5
    row = u * 60 + i
    user = case.users["user_id"][u]
    mine = {g: t.filter(pc.equal(t["user_id"], user)) for g, t in case.affinity.items()}
    pairs = case.pairs.filter(pc.equal(case.pairs["user_id"], user))
    why = catalogue.explain(
        {n: case.users[n][u].as_py() for n in case.users.column_names[1:]},
        f"item-{i}",
        affinity={
            g: (t[g].to_pylist(), {n: t[n].to_pylist() for n in t.column_names[2:]}) for g, t in mine.items()
        },
        pairs=(pairs["item_id"].to_pylist(), {n: pairs[n].to_pylist() for n in pairs.column_names[2:]}),
    )
    data = xgb.DMatrix(
        case.cross[row : row + 1],
        feature_names=case.booster.feature_names,
        feature_types=case.types,
        enable_categorical=True,
    )
    expected = case.booster.predict(data, pred_contribs=True)[0]
    assert list(why.names) == case.booster.feature_names
    np.testing.assert_allclose(why.contributions, expected[:-1], rtol=1e-4, atol=1e-5)
    assert why.expected == pytest.approx(expected[-1], rel=1e-4, abs=1e-5)
    assert why.margin == pytest.approx(case.margins[u, i], rel=1e-4, abs=1e-5)


def test_a_latent_margin_is_part_of_what_is_expected(world: Callable[..., Any]) -> None:
    case = world(4, latent=3, plain=True)
    features = {n: case.users[n][2].as_py() for n in case.users.column_names[1:]}
    why = case.bind().explain(features, "item-7", latent=case.user_latent[2])
    assert why.margin == pytest.approx(case.margins[2, 7], rel=1e-5, abs=1e-5)


def test_an_unknown_item_is_named(world: Callable[..., Any]) -> None:
    with pytest.raises(NotFoundError, match="'nothing'"):
        world(4, plain=True).bind().explain({}, "nothing")
