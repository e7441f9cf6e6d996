"""What a model's scores mean: how often the pairs it lists came true, by probability; scores of hits and of misses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from materialize.training.metrics import DEPTH
from materialize.training.pair_codes import contains

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.scoring import TopK
    from materialize.training.evaluate import EvaluationTask

BINS = 10
BARS = 40


def score_facts(task: EvaluationTask, top: TopK, *, probabilities: bool) -> dict[str, Any]:
    """Facts of the lists as they are served.

    Args:
        task: Knows what happened.
        top: Lists of its users.
        probabilities: Whether the margins are log-odds; those of a ranking objective are not.

    Returns:
        JSON: ``distribution`` (``edges``, and numbers of pairs between them in ``hits`` and ``misses``), and
        ``calibration``, if margins are log-odds: per tenth of the listed pairs ``predicted`` (mean
        probability), ``happened`` (share), ``pairs``; empty otherwise.
    """
    index = top.item_index[:, :DEPTH]
    listed = index >= 0
    rows = np.arange(len(listed))[:, None] * len(task.space.items)
    hits = contains(task.wanted(), (rows + np.maximum(index, 0))[listed])
    scores = top.scores[:, :DEPTH][listed].astype(np.float64)
    if not len(scores):
        return {"distribution": {"edges": [], "hits": [], "misses": []}, "calibration": []}
    edges = np.linspace(scores.min(), scores.max() + 1e-6, BARS + 1)
    return {
        "distribution": {
            "edges": edges.tolist(),
            "hits": np.histogram(scores[hits], edges)[0].tolist(),
            "misses": np.histogram(scores[~hits], edges)[0].tolist(),
        },
        "calibration": _calibration(1 / (1 + np.exp(-scores)), hits) if probabilities else [],
    }


def _calibration(predicted: NDArray[np.float64], hits: NDArray[np.bool_]) -> list[dict[str, float]]:
    order = np.argsort(predicted, kind="stable")
    return [
        {
            "predicted": float(predicted[part].mean()),
            "happened": float(hits[part].mean()),
            "pairs": len(part),
        }
        for part in np.array_split(order, BINS)
        if len(part)
    ]


def gain_by_scope(gain: dict[str, float], schema: FeatureSchema) -> dict[str, float]:
    """Share of the total gain per scope, such as ``user`` or ``affinity:category``, largest first.

    Args:
        gain: Share by feature.
        schema: Knows the scopes.
    """
    found = {str(column.scope): 0.0 for column in schema.columns}
    for column in schema.columns:
        found[str(column.scope)] += gain.get(column.name, 0.0)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
