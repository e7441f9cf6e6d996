"""Reads from a model's metrics what the offline gate compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

METRIC = "ndcg@10"


@dataclass(frozen=True)
class OfflineMetrics:
    """NDCG@10 on a later window, full ranking.

    Attributes:
        model: Of the model; ``None``: it was not evaluated.
        baselines: By name of the baseline, measured in the same run.
        most_gain: Upper end of the 95 % interval of the model's gain over the best baseline; ``None``: not known.
    """

    model: float | None
    baselines: Mapping[str, float] = field(default_factory=dict)
    most_gain: float | None = None

    @property
    def best_baseline(self) -> str | None:
        """Name of the strongest baseline that found anything."""
        found = {name: value for name, value in self.baselines.items() if value > 0}
        return max(found, key=lambda name: found[name]) if found else None

    @property
    def lead(self) -> float | None:
        """The model's value in proportion to the best baseline's."""
        best = self.best_baseline
        return None if self.model is None or best is None else self.model / self.baselines[best]


def read_offline_metrics(metrics: Mapping[str, Any]) -> OfflineMetrics:
    """Find them in ``metrics.json``: ``methods`` (``model`` and baselines, each with ``ndcg@10``) and ``against_best``."""
    methods = metrics.get("methods", {})
    values = {
        name: float(measured[METRIC])
        for name, measured in methods.items()
        if isinstance(measured, dict) and isinstance(measured.get(METRIC), int | float)
    }
    model = values.pop("model", None)
    interval = metrics.get("against_best", {}).get("served", {}).get("interval")
    return OfflineMetrics(model, values, float(interval[1]) if interval else None)
