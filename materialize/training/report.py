"""Writes the report of an evaluation: one self-contained HTML page with tables and plots."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from features.errors import StorageError
from materialize.svg_figure import svg_figure
from materialize.training.report_page import TEMPLATE
from materialize.training.verdicts import DECIDED, METHODS, verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from materialize.settings import Settings

_MODEL, _BASELINE, _HIT = "#0b6e99", "#b0b0b0", "#c7522a"
MEASURES = ("ndcg@10", "recall@10", "recall@50", "hit_rate@10", "coverage@10", "novelty@10")


def report_path(settings: Settings, model_id: str) -> Path:
    """Where the page of a model is, in the warehouse."""
    return settings.warehouse_path / "evaluations" / f"{model_id}.html"


def write_report(metrics: Mapping[str, Any], model_id: str, path: Path) -> Path:
    """Write the page.

    Args:
        metrics: Of a bundle (``metrics.json``), or what :func:`~materialize.training.compare.compare_bundle` gave.
        model_id: The model's id.
        path: File to write; its folder is made.

    Raises:
        StorageError: If it cannot be written.
    """
    page = render_report(metrics, model_id)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise StorageError.of_writing(f"the report {path}", error, path.parent) from error
    return path


def render_report(metrics: Mapping[str, Any], model_id: str) -> str:
    """The page as text; the same metrics give the same text."""
    methods, training, scores = metrics["methods"], metrics.get("training", {}), metrics.get("scores", {})
    names = sorted(methods, key=lambda name: -methods[name]["ndcg@10"])
    distribution = scores.get("distribution", {})
    return (
        Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        .from_string(TEMPLATE)
        .render(
            model_id=model_id,
            window=metrics["window"],
            verdicts=verdicts(metrics),
            choices=metrics.get("choices", []),
            decided=DECIDED,
            validation=metrics.get("validation", []),
            names=names,
            methods=methods,
            measures=MEASURES,
            meaning=METHODS,
            segments=list(methods["model"]["segments"]),
            training=training,
            all_items=svg_figure(lambda axes: _plot_methods(axes, methods), 0.8 + 0.25 * len(methods)),
            new_items=svg_figure(
                lambda axes: _plot_methods(axes, {n: m["new_items"] for n, m in methods.items()}),
                0.8 + 0.25 * len(methods),
            ),
            calibration=svg_figure(lambda axes: _plot_calibration(axes, scores["calibration"]))
            if scores.get("calibration")
            else "",
            distribution=svg_figure(lambda axes: _plot_distribution(axes, distribution))
            if distribution.get("edges")
            else "",
            **(_training_plots(training) if training else {}),
        )
    )


def _training_plots(training: Mapping[str, Any]) -> dict[str, Markup]:
    gain = dict(list(training["gain"].items())[:12])
    return {
        "gains": svg_figure(lambda axes: _plot_bars(axes, training["gain_by_scope"])),
        "features": svg_figure(lambda axes: _plot_bars(axes, gain)),
        "curve": svg_figure(lambda axes: _plot_curve(axes, training["curve"], training["rounds"])),
    }


def _plot_methods(axes: Axes, measured: Mapping[str, Mapping[str, Any]]) -> None:
    names = sorted(measured, key=lambda name: measured[name]["ndcg@10"])
    values = np.array([measured[name]["ndcg@10"] for name in names])
    bounds = np.array([measured[name]["intervals"]["ndcg@10"] for name in names]).T
    axes.barh(
        names,
        values,
        xerr=np.maximum(0, np.stack([values - bounds[0], bounds[1] - values])),
        color=[_MODEL if name == "model" else _BASELINE for name in names],
        ecolor="#444",
        capsize=2,
    )
    axes.set_xlabel("NDCG@10, 95 % over users")


def _plot_bars(axes: Axes, values: Mapping[str, float]) -> None:
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color=_MODEL)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("share of the gain")


def _plot_calibration(axes: Axes, tenths: list[dict[str, float]]) -> None:
    predicted, happened = ([tenth[key] for tenth in tenths] for key in ("predicted", "happened"))
    top = max(*predicted, *happened) * 1.05
    axes.plot([0, top], [0, top], color=_BASELINE, linewidth=1)
    axes.plot(predicted, happened, "o-", color=_MODEL, markersize=4)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that happened")


def _plot_distribution(axes: Axes, distribution: Mapping[str, list[float]]) -> None:
    edges = distribution["edges"]
    for part, colour in (("misses", _BASELINE), ("hits", _HIT)):
        counts = np.array(distribution[part], np.float64)
        if counts.sum():
            axes.stairs(counts / counts.sum(), edges, fill=True, alpha=0.6, color=colour, label=part)
    axes.set_xlabel("score of a listed item")
    axes.set_yticks([])
    axes.legend(frameon=False)


def _plot_curve(axes: Axes, curve: list[float], rounds: int) -> None:
    axes.plot(np.arange(1, len(curve) + 1), curve, color=_MODEL)
    axes.axvline(rounds, color=_BASELINE, linewidth=1)
    axes.set_xlabel("round; the line: where training ended")
    axes.set_ylabel("metric, held-out window")
