"""Scores and lists equal XGBoost's own margins on the explicit cross product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import SchemaMismatchError, StorageError
from materialize.scoring import ITEM, USER, BoundCatalogue, PairScorer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

BOOSTERS = st.sampled_from(
    [
        {},
        {"max_depth": 1},
        {"max_depth": 7, "min_child_weight": 0},
        {"grow_policy": "lossguide", "max_leaves": 24, "max_depth": 0},
        {"booster": "dart", "rate_drop": 0.5},
        {"num_parallel_tree": 3, "subsample": 0.6},
        {"max_cat_to_onehot": 100},
        {"max_cat_to_onehot": 1, "max_cat_threshold": 4},
        {"tree_method": "exact", "max_depth": 3, "scale_pos_weight": 2},
        {"objective": "reg:squarederror", "base_score": -3.5},
        {"objective": "rank:pairwise"},
        {"objective": "count:poisson"},
    ]
)


def best(margins: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Brute force: scores descending, ties in the order of items."""
    return np.argsort(-margins, axis=1, kind="stable")[:, :k]


def usable(params: dict[str, Any], case: Any) -> bool:
    return not (params.get("tree_method") == "exact" and "c" in case.types)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), params=BOOSTERS, latent=st.sampled_from([0, 0, 3]))
def test_scores_have_the_bits_of_xgboost(
    world: Callable[..., Any], seed: int, params: dict[str, Any], latent: int
) -> None:
    if params.get("tree_method") == "exact":
        params = {**params, "max_cat_to_onehot": 100, "tree_method": "hist", "max_bin": 4096}
    case = world(seed, latent=latent, **params)
    scores = case.bind().score(case.users, **case.inputs)
    np.testing.assert_array_equal(scores, case.margins)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    k=st.integers(1, 90),
    threads=st.integers(1, 3),
    exclusions=st.booleans(),
    mask=st.sampled_from(["none", "items", "segments"]),
)
def test_lists_are_those_of_brute_force(
    world: Callable[..., Any], seed: int, k: int, threads: int, exclusions: bool, mask: str
) -> None:
    case = world(seed, users=70, trees=3, max_depth=3)  # few trees: many ties
    rng = np.random.default_rng(seed)
    allowed: NDArray[np.bool_] = np.ones(case.margins.shape, np.bool_)
    options: dict[str, Any] = {}
    if exclusions:
        hidden_user, hidden_item = np.nonzero(np.asarray(rng.random(allowed.shape) < 0.3))
        allowed[hidden_user, hidden_item] = False
        options["exclude"] = pa.table(
            {
                "user_id": case.users["user_id"].take(pa.array(hidden_user)),
                "item_id": case.items["item_id"].take(pa.array(hidden_item)),
            }
        )
    if mask == "items":
        options["eligible"] = rng.random(allowed.shape[1]) < 0.6
        allowed &= options["eligible"]
    if mask == "segments":
        options["eligible"] = rng.random((3, allowed.shape[1])) < 0.6
        options["segments"] = rng.integers(0, 3, len(allowed))
        allowed &= options["eligible"][options["segments"]]
    top = case.bind().top_k(case.users, k, threads=threads, **case.inputs, **options)
    hidden = np.where(allowed, case.margins, -np.inf)
    order = best(hidden, k)
    counts = np.minimum(allowed.sum(axis=1), k)
    np.testing.assert_array_equal(top.counts, counts)
    for u, n in enumerate(counts):
        np.testing.assert_array_equal(top.item_index[u, :n], order[u, :n])
        np.testing.assert_array_equal(top.scores[u, :n], hidden[u, order[u, :n]])
        assert (top.item_index[u, n:] == -1).all()
        assert np.isnan(top.scores[u, n:]).all()
    table = top.to_table()
    assert table.num_rows == counts.sum()
    assert table.schema.names == ["user_id", "rank", "item_id", "score"]
    assert [str(t) for t in table.schema.types] == ["int64", "int32", "string", "float"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), latent=st.sampled_from([0, 3]), k=st.sampled_from([1, 10, 100]))
def test_one_user_gets_the_list_of_a_batch(world: Callable[..., Any], seed: int, latent: int, k: int) -> None:
    case = world(seed, latent=latent)
    catalogue = case.bind()
    top = catalogue.top_k(case.users, k, **case.inputs)
    for u in (0, 17):
        user = case.users["user_id"][u]
        mine = {g: t.filter(pc.equal(t["user_id"], user)) for g, t in case.affinity.items()}
        pairs = case.pairs.filter(pc.equal(case.pairs["user_id"], user))
        one = catalogue.top_k_one(
            {n: case.users[n][u].as_py() for n in case.users.column_names[1:]},
            k,
            affinity={
                g: (t[g].to_pylist(), {n: t[n].to_pylist() for n in t.column_names[2:]})
                for g, t in mine.items()
            },
            pairs=(pairs["item_id"].to_pylist(), {n: pairs[n].to_pylist() for n in pairs.column_names[2:]}),
            latent=None if case.user_latent is None else case.user_latent[u],
        )
        np.testing.assert_array_equal(one.item_index[0], top.item_index[u])
        np.testing.assert_array_equal(one.scores[0], top.scores[u])


@pytest.mark.parametrize("users", [1, 63, 64, 65])
def test_the_place_in_a_block_does_not_matter(world: Callable[..., Any], users: int) -> None:
    case = world(5, users=130)
    catalogue = case.bind()
    whole = catalogue.score(case.users, **case.inputs)
    part = catalogue.score(case.users.slice(30, users), **case.inputs)
    np.testing.assert_array_equal(part, whole[30 : 30 + users])


def test_a_saved_catalogue_gives_the_same(world: Callable[..., Any], tmp_path: Path) -> None:
    case = world(7, latent=2)
    catalogue = case.bind()
    catalogue.save(tmp_path / "catalogue")
    again = BoundCatalogue.load(tmp_path / "catalogue")
    np.testing.assert_array_equal(
        again.score(case.users, **case.inputs), catalogue.score(case.users, **case.inputs)
    )
    assert again.item_ids.equals(catalogue.item_ids)
    (tmp_path / "catalogue" / "program.root.npy").unlink()
    with pytest.raises(StorageError, match="not a whole catalogue"):
        BoundCatalogue.load(tmp_path / "catalogue")


def test_values_of_wider_types_are_rounded_as_by_xgboost() -> None:
    import xgboost as xgb  # noqa: PLC0415 - only this test trains by hand

    threshold = np.float32(0.1)
    x = np.array([0.05, 0.2, 0.05, 0.2], np.float32)
    booster = xgb.train(
        {"max_depth": 1, "min_child_weight": 0},
        xgb.DMatrix(np.stack([x, x], 1), [0, 1, 0, 1], feature_names=["u", "i"]),
        1,
    )
    document = bytearray(booster.save_raw("json")).decode()
    import json  # noqa: PLC0415

    model = json.loads(document)
    tree = model["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["split_conditions"][0], tree["split_indices"][0] = float(threshold), 0
    scorer = PairScorer.from_xgboost(json.dumps(model).encode(), {"u": USER, "i": ITEM})
    wide = np.array([0.1, np.nextafter(0.1, 0), np.nextafter(0.1, 1), float(np.nextafter(threshold, 0))])
    catalogue = scorer.bind(pa.table({"item_id": [1], "i": [0.0]}))
    booster.load_model(bytearray(json.dumps(model).encode()))
    expected = booster.inplace_predict(np.stack([wide, wide], 1).astype(np.float32), predict_type="margin")
    got = catalogue.score(pa.table({"user_id": range(4), "u": wide}))
    np.testing.assert_array_equal(got[:, 0], expected)


def test_infinity_is_beyond_every_threshold(world: Callable[..., Any]) -> None:
    case = world(11, plain=True, max_depth=6)
    numbers = [n for n, s in case.scopes.items() if s == USER and "c" not in case.types]
    users = case.users
    for n in numbers:
        users = users.set_column(users.column_names.index(n), n, pa.array(np.full(40, np.inf, np.float32)))
    cross = case.cross.copy()
    names = case.booster.feature_names
    for n in numbers:
        cross[:, names.index(n)] = np.inf
    expected = case.booster.inplace_predict(
        np.nan_to_num(cross, nan=np.nan, posinf=3.4028235e38), predict_type="margin"
    )
    np.testing.assert_array_equal(case.bind().score(users).reshape(-1), expected)


@pytest.mark.parametrize("users", [0, 3])
@pytest.mark.parametrize("items", [0, 1])
def test_empty_and_single(world: Callable[..., Any], users: int, items: int) -> None:
    case = world(3, plain=True)
    catalogue = PairScorer.from_xgboost(case.booster, case.scopes).bind(case.items.slice(0, items))
    top = catalogue.top_k(case.users.slice(0, users), 5)
    assert top.item_index.shape == (users, 5)
    assert (top.counts == items).all()
    assert top.to_table().num_rows == users * items
    assert top.item_ids.shape == (users, 5)


def test_transformed_output_is_xgboosts_prediction(world: Callable[..., Any]) -> None:
    case = world(2, plain=True)
    scores = case.bind().score(case.users, output="transformed")
    expected = case.booster.inplace_predict(case.cross).reshape(scores.shape)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_what_does_not_fit_is_refused_by_name(world: Callable[..., Any]) -> None:
    case = world(9, plain=True, latent=2)
    catalogue = case.bind()
    latent = case.user_latent
    with pytest.raises(SchemaMismatchError, match="no column 'u0'"):
        catalogue.top_k(case.users.drop_columns(["u0"]), latent=latent)
    with pytest.raises(SchemaMismatchError, match="an id twice"):
        catalogue.top_k(pa.concat_tables([case.users, case.users]), latent=latent)
    with pytest.raises(SchemaMismatchError, match="latent vectors"):
        catalogue.top_k(case.users)
    with pytest.raises(SchemaMismatchError, match="latent vectors"):
        catalogue.top_k(case.users, latent=latent[:3])
    with pytest.raises(SchemaMismatchError, match="eligibility mask"):
        catalogue.top_k(case.users, latent=latent, eligible=np.ones(3, np.bool_))
    with pytest.raises(SchemaMismatchError, match="segments"):
        catalogue.top_k(
            case.users, latent=latent, eligible=np.ones((2, 60), np.bool_), segments=np.full(40, 2)
        )
    with pytest.raises(SchemaMismatchError, match="k is too small"):
        catalogue.top_k(case.users, 0, latent=latent)
    with pytest.raises(SchemaMismatchError, match="not the model's"):
        PairScorer.from_xgboost(case.booster, {**case.scopes, "other": USER})
