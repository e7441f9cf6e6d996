"""A trained forest as flat arrays: the seam between model readers and everything that scores.

All libraries' trees are brought to one form. A numeric test sends a float32 value left when
``value < threshold``; a categorical test sends it *right* when its integer part is in the node's set;
a missing value (NaN) goes where the node's default says. (XGBoost's rules; see ``Decision`` in
https://github.com/dmlc/xgboost/blob/master/src/common/categorical.h)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from features.errors import UnsupportedModelError
from materialize.scoring.kernels_encoding import natural_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Transform = Callable[[Float32], Float32]


@dataclass(frozen=True)
class Forest:
    """Trees in the order in which their leaves are added; nodes of all trees in one numbering.

    Attributes:
        root: int32[T], the root node of each tree.
        left, right: int32[N], children; -1 at a leaf.
        feature: int32[N], index into ``names``; -1 at a leaf.
        threshold: float32[N]; of numeric tests.
        default_left: bool[N], where missing values go.
        category_set: int32[N], index into ``category_sets``; -1 for a numeric test or a leaf.
        category_sets: Sorted int32 codes that go right, one array per categorical test.
        value: float32[N]; of leaves.
        cover: float32[N], weight of the training rows that reached the node; for explanations.
        base_margin: Where the sum starts.
        objective: Name of the objective, for the transformation of margins.
        names: Feature names, in booster order; empty if the model has none.
        features: Number of features.
        categorical: Indices of features that the model treats as categories.
    """

    root: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.bool_]
    category_set: NDArray[np.int32]
    category_sets: tuple[NDArray[np.int32], ...]
    value: NDArray[np.float32]
    cover: NDArray[np.float32]
    base_margin: np.float32
    objective: str
    names: tuple[str, ...]
    features: int
    categorical: frozenset[int]

    def __len__(self) -> int:
        return len(self.root)


def _identity(margin: Float32) -> Float32:
    return margin


def _sigmoid(margin: Float32) -> Float32:
    # Clipped as in XGBoost's common::Sigmoid, so that exp never overflows float32.
    return (1.0 / (1.0 + np.exp(np.minimum(-margin, np.float32(88.7))) + np.float32(1e-16))).astype(
        np.float32
    )


def _exponential(margin: Float32) -> Float32:
    with np.errstate(over="ignore"):
        return np.exp(margin)


def _step(margin: Float32) -> Float32:
    return (margin > 0).astype(np.float32)


_SMALLEST = np.float32(1e-6)
"""XGBoost's kRtEps: base scores of probabilities keep so far from 0 and 1."""


def _logit(base: float) -> float:
    # In float32 throughout, as XGBoost does it, for the same bits.
    inside = np.clip(np.float32(base), _SMALLEST, np.float32(1) - _SMALLEST)
    return -float(natural_log(np.float32(1) / inside - np.float32(1)))


def _same(base: float) -> float:
    return base


def _log(base: float) -> float:
    return float(natural_log(np.float32(base))) if base > 0 else -math.inf


OBJECTIVES: dict[str, tuple[Transform, Callable[[float], float]]] = {
    **dict.fromkeys(("binary:logistic", "reg:logistic"), (_sigmoid, _logit)),
    **dict.fromkeys(
        ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"), (_exponential, _log)
    ),
    **dict.fromkeys(
        (
            "reg:squarederror",
            "reg:squaredlogerror",
            "reg:pseudohubererror",
            "reg:absoluteerror",
            "reg:quantileerror",
            "reg:linear",
            "binary:logitraw",
            "rank:pairwise",
            "rank:ndcg",
            "rank:map",
        ),
        (_identity, _same),
    ),
    "binary:hinge": (_step, _same),
}
"""By objective: margin to prediction, and ``base_score`` as stored to margin. Each checked against XGBoost 3.2."""


def transform(objective: str, margin: Float32) -> Float32:
    """Predictions on the objective's scale: float32, same shape; NaN stays NaN."""
    return OBJECTIVES[objective][0](margin)


def refuse_objective(objective: str) -> None:
    """Raise for an objective whose margin is not one number with a known transformation.

    Raises:
        UnsupportedModelError: Naming the objective.
    """
    if objective not in OBJECTIVES:
        raise UnsupportedModelError(
            f"objective {objective!r} cannot be scored",
            expected=f"one of {', '.join(sorted(OBJECTIVES))}",
            got=objective,
        )
