"""The same answers on every device: this file runs on the CPU, on a GPU where there is one, and in CUDA's simulator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import CallerError, SchemaMismatchError
from materialize.scoring import PairScorer
from materialize.scoring.kernels_cuda import cuda

if TYPE_CHECKING:
    from collections.abc import Callable

GPU = bool(cuda.is_available())  # true in the simulator
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
DEVICES = ["cuda"] if SIMULATED else ["cpu", *(["cuda"] if GPU else [])]
EXAMPLES = 12 if SIMULATED else 30
BOOSTERS = st.sampled_from(
    [
        {},
        {"max_depth": 7, "min_child_weight": 0},
        {"booster": "dart", "rate_drop": 0.5},
        {"num_parallel_tree": 2, "subsample": 0.6},
        {"max_cat_to_onehot": 1, "max_cat_threshold": 4},
    ]
)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**20), params=BOOSTERS, latent=st.sampled_from([0, 3]))
def test_scores_have_the_bits_of_xgboost(
    world: Callable[..., Any], device: Any, seed: int, params: dict[str, Any], latent: int
) -> None:
    case = world(seed, users=7, items=9, trees=3, latent=latent, **params)
    # A pair twice: the last row counts.
    pairs = pa.concat_tables(
        [case.pairs.slice(0, 5).set_column(1, "item_id", case.pairs["item_id"].slice(0, 5)), case.pairs]
    )
    scores = case.bind().on(device).score(case.users, **{**case.inputs, "pairs": pairs})
    np.testing.assert_array_equal(scores, case.margins)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=EXAMPLES)
@given(
    seed=st.integers(0, 2**20),
    k=st.sampled_from([1, 3, 9, 14]),
    hidden=st.sampled_from([0.0, 0.3, 1.0]),
    segments=st.booleans(),
)
def test_lists_are_those_of_brute_force(
    world: Callable[..., Any], device: Any, seed: int, k: int, hidden: float, segments: bool
) -> None:
    case = world(seed, users=6, items=11, trees=2, max_depth=2)  # few trees: many ties
    rng = np.random.default_rng(seed)
    excluded = rng.random(case.margins.shape) < hidden
    eligible = rng.random((2, 11)) < 0.7
    segment = rng.integers(0, 2, 6) if segments else np.zeros(6, np.int64)
    user, item = np.nonzero(excluded)
    top = (
        case.bind()
        .on(device)
        .top_k(
            case.users,
            k,
            exclude=pa.table(
                {
                    "user_id": case.users["user_id"].take(pa.array(user)),
                    "item_id": case.items["item_id"].take(pa.array(item)),
                }
            ),
            eligible=eligible if segments else eligible[0],
            segments=segment if segments else None,
            **case.inputs,
        )
    )
    margins = np.where(~excluded & eligible[segment], case.margins, -np.inf)
    for u in range(6):
        expected = [i for i in np.argsort(-margins[u], kind="stable")[:k] if margins[u, i] > -np.inf]
        n = len(expected)
        assert top.counts[u] == n
        assert top.item_index[u].tolist() == [*expected, *[-1] * (k - n)]
        np.testing.assert_array_equal(top.scores[u, :n], margins[u, expected])
        assert np.isnan(top.scores[u, n:]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("users", "items"), [(0, 5), (1, 5), (3, 0), (3, 1)])
def test_empty_and_single(world: Callable[..., Any], device: Any, users: int, items: int) -> None:
    case = world(3, plain=True, users=5, items=5)
    catalogue = PairScorer.from_xgboost(case.booster, case.scopes).bind(case.items.slice(0, items)).on(device)
    top = catalogue.top_k(case.users.slice(0, users), 3)
    assert top.item_index.shape == (users, 3)
    assert (top.counts == min(items, 3)).all()
    np.testing.assert_array_equal(catalogue.score(case.users.slice(0, users)), case.margins[:users, :items])


@pytest.mark.parametrize("device", DEVICES)
def test_latent_vectors_that_do_not_fit_are_refused(world: Callable[..., Any], device: Any) -> None:
    catalogue = world(9, plain=True, users=5, items=5, latent=2).bind().on(device)
    with pytest.raises(SchemaMismatchError, match="latent vectors"):
        catalogue.top_k(world(9, plain=True, users=5, items=5, latent=2).users)


@pytest.mark.parametrize("device", ["cpu" if GPU else "cuda"])
def test_a_device_that_is_not_there_is_refused(world: Callable[..., Any], device: Any) -> None:
    catalogue = world(9, plain=True, users=5, items=5).bind()
    if device == "cpu":
        assert catalogue.on("cpu").device == "cpu"
        return
    with pytest.raises(CallerError, match="no GPU"):
        catalogue.on(device)
