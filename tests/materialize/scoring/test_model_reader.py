"""Models are read as XGBoost reads them, and refused by name where they cannot be scored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UnsupportedModelError
from materialize.scoring import ITEM, USER, PairScorer
from materialize.scoring.forest import OBJECTIVES
from materialize.scoring.model_reader import read_xgboost
from materialize.scoring.ubjson import decode_ubjson

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.scoring.forest import Forest

MATRIX = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
LABEL = (MATRIX[:, 0] > 0).astype(np.float32)


def train(rounds: int = 3, label: Any = LABEL, **params: Any) -> Any:
    data = xgb.DMatrix(MATRIX, label, feature_names=["u", "i"])
    if str(params.get("objective", "")).startswith("rank:"):
        data.set_info(group=[60])
    if params.get("objective") == "survival:aft":
        data.set_info(label_lower_bound=label + 1, label_upper_bound=label + 2)
    return xgb.train({"max_depth": 3, "nthread": 1, **params}, data, rounds)


def margin(forest: Forest, row: np.ndarray[Any, Any]) -> np.float32:
    """The definition of a margin, for numeric tests without missing values."""
    total = forest.base_margin
    for node in forest.root:
        while forest.left[node] >= 0:
            goes_left = row[forest.feature[node]] < forest.threshold[node]
            node = (forest.left if goes_left else forest.right)[node]  # noqa: PLW2901 - it walks
        total += forest.value[node]
    return np.float32(total)


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"reg:linear"}))
@pytest.mark.parametrize("base_score", [None, 0.3])
def test_every_objective(objective: str, base_score: float | None) -> None:
    label = LABEL + 1 if objective == "reg:gamma" else LABEL
    extra: dict[str, Any] = {"quantile_alpha": 0.4} if objective == "reg:quantileerror" else {}
    if base_score is not None:
        extra["base_score"] = base_score
    booster = train(objective=objective, label=label, **extra)
    forest = read_xgboost(booster)
    expected = booster.inplace_predict(MATRIX, predict_type="margin")
    np.testing.assert_array_equal([margin(forest, row) for row in MATRIX], expected)


def test_a_file_bytes_and_a_booster_are_the_same(tmp_path: Path) -> None:
    booster = train()
    for name in ("model.ubj", "model.json"):
        booster.save_model(tmp_path / name)
    forests = [
        read_xgboost(model)
        for model in (
            booster,
            tmp_path / "model.ubj",
            str(tmp_path / "model.json"),
            bytes(booster.save_raw("ubj")),
            bytes(booster.save_raw("json")),
        )
    ]
    for forest in forests[1:]:
        np.testing.assert_array_equal(forest.value, forests[0].value)
        np.testing.assert_array_equal(forest.threshold, forests[0].threshold)
        assert forest.base_margin == forests[0].base_margin
        assert forest.names == ("u", "i")


def test_old_base_score_is_a_bare_number() -> None:
    document = json.loads(bytes(train(base_score=0.25, objective="binary:logistic").save_raw("json")))
    document["learner"]["learner_model_param"]["base_score"] = "2.5E-1"
    assert read_xgboost(json.dumps(document).encode()).base_margin == pytest.approx(np.log(1 / 3))


def test_early_stopping_counts_to_the_best_iteration() -> None:
    data = xgb.DMatrix(MATRIX, LABEL)
    noise = xgb.DMatrix(MATRIX, np.random.default_rng(1).random(60) > 0.5)
    booster = xgb.train(
        {"objective": "binary:logistic", "num_parallel_tree": 2, "subsample": 0.7},
        data,
        40,
        evals=[(noise, "noise")],
        early_stopping_rounds=3,
        verbose_eval=False,
    )
    best = booster.best_iteration
    assert best + 1 < booster.num_boosted_rounds()
    forest = read_xgboost(booster)
    assert len(forest) == 2 * (best + 1)
    expected = booster.predict(data, output_margin=True, iteration_range=(0, best + 1))
    np.testing.assert_array_equal([margin(forest, row) for row in MATRIX], expected)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"booster": "gblinear"}, "gblinear"),
        ({"objective": "multi:softprob", "num_class": 3}, "num_class=3"),
        ({"objective": "multi:softmax", "num_class": 2}, "num_class=2"),
    ],
)
def test_unsupported_models_are_refused_by_name(params: dict[str, Any], says: str) -> None:
    if params.get("booster") == "gblinear":
        params = {"booster": "gblinear"}
        booster = xgb.train(params, xgb.DMatrix(MATRIX, LABEL), 2)
    else:
        booster = train(**params)
    with pytest.raises(UnsupportedModelError, match=says):
        PairScorer.from_xgboost(booster, {"u": USER, "i": ITEM})


def test_several_targets_and_vector_leaves_are_refused() -> None:
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        booster = train(label=np.stack([LABEL, LABEL], axis=1), multi_strategy=strategy, tree_method="hist")
        with pytest.raises(UnsupportedModelError, match="num_target=2"):
            read_xgboost(booster)


def test_an_unknown_objective_is_refused() -> None:
    document = json.loads(bytes(train().save_raw("json")))
    document["learner"]["objective"]["name"] = "my:own"
    with pytest.raises(UnsupportedModelError, match="my:own"):
        read_xgboost(json.dumps(document).encode())


@given(data=st.data())
def test_a_damaged_file_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["ubj", "json"]))
    raw = bytearray(train(1).save_raw(kind))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        with pytest.raises(UnsupportedModelError):
            read_xgboost(bytes(raw))
        return
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        forest = read_xgboost(bytes(raw))
    except UnsupportedModelError:
        return
    assert len(forest.root) >= 0


def test_cycles_are_refused() -> None:
    document = json.loads(bytes(train(1).save_raw("json")))
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["left_children"][0] = 0
    with pytest.raises(UnsupportedModelError, match="child outside"):
        read_xgboost(json.dumps(document).encode())
    tree["left_children"][0] = tree["right_children"][0]
    with pytest.raises(UnsupportedModelError, match="two parents"):
        read_xgboost(json.dumps(document).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"PK", b"{i\x05", b"\x80\x04", b"{" + b"L" + b"\xff" * 8, b"{}"])
def test_foreign_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(UnsupportedModelError):
        read_xgboost(raw)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"none\.ubj"):
        read_xgboost(tmp_path / "none.ubj")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"Z", None),
        (b"T", True),
        (b"i\xff", -1),
        (b"U\xff", 255),
        (b"I\x01\x00", 256),
        (b"d\x3f\x80\x00\x00", 1.0),
        (b"Si\x03\xe2\x82\xac", "\N{EURO SIGN}"),
        (b"Ca", "a"),
        (b"[i\x01T]", [1, True]),
        (b"[#i\x02i\x01i\x02", [1, 2]),
        (b"{i\x01ai\x01}", {"a": 1}),
        (b"{#i\x01i\x01ai\x01", {"a": 1}),
    ],
)
def test_ubjson_values(raw: bytes, value: object) -> None:
    assert decode_ubjson(raw) == value


def test_ubjson_typed_arrays_are_native() -> None:
    array = decode_ubjson(b"[$l#i\x02\x00\x00\x00\x01\xff\xff\xff\xff")
    assert array.dtype == np.int32
    assert array.tolist() == [1, -1]


def test_ubjson_does_not_nest_without_end() -> None:
    with pytest.raises(UnsupportedModelError, match="nested too deeply"):
        decode_ubjson(b"[" * 5000)
