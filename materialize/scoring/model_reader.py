"""Read an XGBoost model (UBJSON or JSON) into a :class:`Forest`, without XGBoost.

Format: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html and ``doc/model.schema``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from features.errors import UnsupportedModelError
from materialize.scoring.forest import OBJECTIVES, Forest, refuse_objective
from materialize.scoring.ubjson import decode_ubjson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_DEEPEST_TREE = 512


class SavesRaw(Protocol):
    """What a live ``xgboost.Booster`` offers; named here so that XGBoost need not be installed."""

    def save_raw(self, raw_format: str = "ubj") -> bytearray:
        """The model's bytes."""


def read_xgboost(model: SavesRaw | Path | str | bytes) -> Forest:
    """Read a booster, a ``.ubj`` or ``.json`` file, or such a file's bytes.

    A model that was stopped early counts up to its best iteration, as in XGBoost's scikit-learn interface.

    Raises:
        UnsupportedModelError: Naming what is not supported (gblinear, several classes or targets, vector
            leaves, an unknown objective), or saying that the file is damaged.
    """
    if isinstance(model, (str, Path)):
        try:
            raw = Path(model).read_bytes()
        except OSError as error:
            raise UnsupportedModelError(
                f"the model file {str(model)!r} cannot be read", got=str(error)
            ) from error
    elif isinstance(model, (bytes, bytearray)):
        raw = bytes(model)
    else:
        raw = bytes(model.save_raw(raw_format="ubj"))
    document = _decode(raw)
    try:
        return _forest(document["learner"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise UnsupportedModelError(
            "the model does not have the structure of an XGBoost model", got=repr(error)
        ) from error


def _decode(raw: bytes) -> Any:
    # Both formats open with '{'; JSON then has white space or a quote, UBJSON an integer marker or 'L'.
    if raw[:1] != b"{":
        raise UnsupportedModelError(
            "not an XGBoost model",
            expected="UBJSON or JSON, saved by XGBoost 1.6 or newer",
            got=repr(raw[:8]),
        )
    if raw[1:2] in {b'"', b" ", b"\n", b"\r", b"\t", b"}"}:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UnsupportedModelError("the model is not a whole JSON file", got=str(error)) from error
    return decode_ubjson(raw)


def _forest(learner: dict[str, Any]) -> Forest:
    booster = learner["gradient_booster"]
    kind = booster["name"]
    if kind not in {"gbtree", "dart"}:
        raise UnsupportedModelError(f"booster {kind!r} cannot be scored", expected="gbtree or dart", got=kind)
    parameters = learner["learner_model_param"]
    for name, most in (("num_class", 1), ("num_target", 1)):
        if int(parameters.get(name, 0)) > most:
            raise UnsupportedModelError(
                f"the model has {name}={parameters[name]}",
                expected="one score per pair, that is one class and target",
            )
    objective = learner["objective"]["name"]
    refuse_objective(objective)
    model = (booster["gbtree"] if kind == "dart" else booster)["model"]
    trees = model["trees"][: _tree_limit(learner, model)]
    weights = booster["weight_drop"] if kind == "dart" else None
    if weights is not None and len(weights) < len(trees):
        raise ValueError("fewer DART weights than trees")
    features = int(parameters["num_feature"])
    names = tuple(learner.get("feature_names") or ())
    types = learner.get("feature_types") or []
    return _flatten(
        trees,
        weights,
        base_margin=_base_margin(str(parameters["base_score"]), objective),
        objective=objective,
        names=names,
        features=features,
        categorical=frozenset(i for i, t in enumerate(types) if t == "c"),
    )


def _tree_limit(learner: dict[str, Any], model: dict[str, Any]) -> int:
    count = len(model["trees"])
    best = (learner.get("attributes") or {}).get("best_iteration")
    if best is None:
        return count
    ends = model.get("iteration_indptr")
    if ends is not None and len(ends):
        return int(ends[min(int(best) + 1, len(ends) - 1)])
    parallel = max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))
    return min(count, (int(best) + 1) * parallel)


def _base_margin(text: str, objective: str) -> np.float32:
    # XGBoost 3.1 and newer write a list of one, older ones a bare number; both before the link function.
    numbers = [np.float32(part) for part in text.strip().strip("[]").split(",") if part.strip()]
    if len(numbers) != 1:
        raise UnsupportedModelError("the model has several base scores", expected="one", got=text)
    return np.float32(OBJECTIVES[objective][1](float(numbers[0])))


def _flatten(trees: list[dict[str, Any]], weights: Any, **rest: Any) -> Forest:
    sizes = [len(tree["left_children"]) for tree in trees]
    root = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if root[-1] >= 2**31:
        raise UnsupportedModelError("the forest has more than 2**31 nodes")
    total = int(root[-1])
    left, right = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    feature, category_set = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    threshold, value, cover = (np.zeros(total, np.float32) for _ in range(3))
    default_left = np.zeros(total, np.bool_)
    sets: list[NDArray[np.int32]] = []
    for t, tree in enumerate(trees):
        if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
            raise UnsupportedModelError("the model has vector leaves", expected="one value per leaf")
        span = slice(int(root[t]), int(root[t + 1]))
        lefts, rights = (np.asarray(tree[name], np.int64) for name in ("left_children", "right_children"))
        inner = lefts >= 0
        conditions = np.asarray(tree["split_conditions"], np.float32)
        _check_shape(lefts, rights, np.asarray(tree["split_indices"]), rest["features"])
        left[span], right[span] = np.where(inner, lefts + root[t], -1), np.where(inner, rights + root[t], -1)
        feature[span] = np.where(inner, np.asarray(tree["split_indices"], np.int64), -1)
        threshold[span] = conditions
        leaves = conditions if weights is None else conditions * np.float32(weights[t])
        value[span] = np.where(inner, np.float32(0), leaves)
        cover[span] = np.asarray(tree["sum_hessian"], np.float32)
        default_left[span] = np.asarray(tree["default_left"]).astype(np.bool_)
        for node, codes in _categories(tree):
            if inner[node]:
                category_set[root[t] + node] = len(sets)
                sets.append(codes)
    return Forest(
        root=root[:-1].astype(np.int32),
        left=left,
        right=right,
        feature=feature,
        threshold=threshold,
        default_left=default_left,
        category_set=category_set,
        category_sets=tuple(sets),
        value=value,
        cover=cover,
        **rest,
    )


def _categories(tree: dict[str, Any]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    nodes = tree.get("categories_nodes")
    if nodes is None:
        return
    for node, start, size in zip(nodes, tree["categories_segments"], tree["categories_sizes"], strict=True):
        codes = np.asarray(tree["categories"], np.int32)[int(start) : int(start) + int(size)]
        yield int(node), np.unique(codes)


def _check_shape(
    left: NDArray[np.int64], right: NDArray[np.int64], feature: NDArray[Any], features: int
) -> None:
    """A damaged file must not send the walk in circles or out of bounds: every node has one parent at most."""
    inner = left >= 0
    children = np.concatenate([left[inner], right[inner]])
    if len(left) == 0 or len(left) != len(right) or len(feature) != len(left):
        raise ValueError("a tree's arrays differ in length")
    if len(children) and (children.min() < 1 or children.max() >= len(left)):
        raise ValueError("a child outside its tree")
    if len(np.unique(children)) != len(children):
        raise ValueError("a node with two parents")
    if inner.any() and (feature[inner].min() < 0 or feature[inner].max() >= features):
        raise ValueError("a test of a feature that the model does not have")
    level, depth = np.array([0]), 0
    while len(level):  # one parent each and the root has none, so this ends; only its depth is in question
        level = level[inner[level]]
        level = np.concatenate([left[level], right[level]])
        depth += 1
    if depth - 1 > _DEEPEST_TREE:
        raise UnsupportedModelError(f"a tree of depth {depth - 1}", expected=f"at most {_DEEPEST_TREE}")
