"""Read LightGBM and scikit-learn models into a :class:`Forest`, by way of Treelite.

Those libraries compare float64 values with float64 thresholds, mostly by ``<=``. Inputs here are float32, and for
them ``x <= c`` is ``x < t`` where t is the float32 after the largest one that does not exceed c: no rounding changes
a decision. Fields: https://treelite.readthedocs.io/en/latest/serialization/v4.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import UnsupportedModelError
from materialize.scoring.forest import Forest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OBJECTIVES = {"identity": "reg:squarederror", "sigmoid": "binary:logistic", "exponential": "count:poisson"}
"""XGBoost's objective with the same transformation, by Treelite's postprocessor."""
_LEAF, _NUMERIC, _CATEGORICAL = 0, 1, 2
_LESS, _LESS_OR_EQUAL = 2, 3


def read_treelite(model: Any) -> Forest:
    """Read a ``treelite.Model``, of one score per row.

    Models come from ``treelite.frontend.from_lightgbm`` (or ``load_lightgbm_model``) and
    ``treelite.sklearn.import_model``. A binary random forest's score is the probability of its second class.

    Raises:
        UnsupportedModelError: Naming what is not supported.
    """
    header = model.get_header_accessor()
    classes, targets = int(header.get_field("num_class")[0]), int(header.get_field("num_target")[0])
    votes = classes == 2 and header.get_field("leaf_vector_shape").tolist() == [1, 2]
    if targets > 1 or (classes > 1 and not votes):
        raise UnsupportedModelError(
            f"the model has {targets} targets and {classes} classes", expected="one score per pair"
        )
    after = "identity" if votes else header.get_field("postprocessor")
    alpha = float(header.get_field("sigmoid_alpha")[0])
    if after not in _OBJECTIVES or (after == "sigmoid" and alpha != 1):
        raise UnsupportedModelError(
            f"the model's postprocessor {after!r} (sigmoid_alpha {alpha:g})", expected=", ".join(_OBJECTIVES)
        )
    builder = _Builder(votes=votes)
    count = int(header.get_field("num_tree")[0])
    for t in range(count):
        builder.add(model.get_tree_accessor(t))
    share = count if int(header.get_field("average_tree_output")[0]) and count else 1
    return builder.forest(
        share=share,
        base=float(np.ravel(header.get_field("base_scores"))[-1 if votes else 0]),
        objective=_OBJECTIVES[after],
        features=int(header.get_field("num_feature")[0]),
    )


class _Builder:
    def __init__(self, *, votes: bool) -> None:
        self._votes = votes
        self._parts: dict[str, list[NDArray[Any]]] = {
            name: []
            for name in ("left", "right", "feature", "threshold", "default_left", "set", "value", "cover")
        }
        self._roots: list[int] = []
        self._sets: list[NDArray[np.int32]] = []
        self._nodes = 0

    def add(self, tree: Any) -> None:
        kind = tree.get_field("node_type")
        left, right = (tree.get_field(name).astype(np.int32) for name in ("cleft", "cright"))
        default_left = tree.get_field("default_left").astype(np.bool_)
        sets = np.full(len(kind), -1, np.int32)
        categories, begin, end = (tree.get_field(f"category_list{part}") for part in ("", "_begin", "_end"))
        for node in np.flatnonzero(kind == _CATEGORICAL):
            sets[node] = len(self._sets)
            self._sets.append(np.unique(categories[int(begin[node]) : int(end[node])]).astype(np.int32))
            if not tree.get_field("category_list_right_child")[node]:
                # The list goes left, and Forest's goes right: exchange the sides.
                left[node], right[node] = right[node], left[node]
                default_left[node] = not default_left[node]
        inner = kind != _LEAF
        values = {
            "left": np.where(inner, left + self._nodes, -1),
            "right": np.where(inner, right + self._nodes, -1),
            "feature": np.where(inner, tree.get_field("split_index"), -1),
            "threshold": _thresholds(tree.get_field("threshold"), tree.get_field("cmp"), kind == _NUMERIC),
            "default_left": default_left,
            "set": sets,
            "value": np.where(inner, 0, self._leaves(tree, len(kind))),
            "cover": tree.get_field("sum_hess")
            if len(tree.get_field("sum_hess"))
            else tree.get_field("data_count"),
        }
        for name, array in values.items():
            self._parts[name].append(array)
        self._roots.append(self._nodes)
        self._nodes += len(kind)

    def _leaves(self, tree: Any, nodes: int) -> NDArray[np.float64]:
        if not self._votes:
            return np.asarray(tree.get_field("leaf_value"), np.float64)
        begin, end = (tree.get_field(f"leaf_vector_{part}").astype(np.int64) for part in ("begin", "end"))
        vector = tree.get_field("leaf_vector")
        out = np.zeros(nodes, np.float64)
        out[end > begin] = vector[begin[end > begin] + 1]
        return out

    def forest(self, *, share: int, base: float, objective: str, features: int) -> Forest:
        def part(name: str, dtype: type[np.generic]) -> NDArray[Any]:
            return np.concatenate([np.empty(0, dtype), *self._parts[name]]).astype(dtype)

        feature, sets = part("feature", np.int32), part("set", np.int32)
        return Forest(
            root=np.array(self._roots, np.int32),
            left=part("left", np.int32),
            right=part("right", np.int32),
            feature=feature,
            threshold=part("threshold", np.float32),
            default_left=part("default_left", np.bool_),
            category_set=sets,
            category_sets=tuple(self._sets),
            value=(part("value", np.float64) / share).astype(np.float32),
            cover=part("cover", np.float32),
            base_margin=np.float32(base),
            objective=objective,
            names=(),
            features=features,
            categorical=frozenset(feature[sets >= 0].tolist()),
        )


def _thresholds(
    threshold: NDArray[np.floating], operator: NDArray[np.int8], numeric: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Thresholds of ``<`` on float32 that decide as the model's operators on its own type do."""
    unknown = set(operator[numeric].tolist()) - {_LESS, _LESS_OR_EQUAL}
    if unknown:
        raise UnsupportedModelError(
            "the model compares by another operator than < and <=", got=str(sorted(unknown))
        )
    exact = np.asarray(threshold, np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(np.float32)
        not_above = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
        not_below = np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near)
        after = np.nextafter(not_above, np.float32(np.inf))
    return np.where(operator == _LESS_OR_EQUAL, after, not_below).astype(np.float32)
