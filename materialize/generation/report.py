"""Writes a generation's report: one self-contained HTML page with its gates and plots of its lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined

from features.errors import StorageError
from materialize.generation.artifact import generation_folder
from materialize.generation.measures import TOP
from materialize.generation.offline_metrics import read_offline_metrics
from materialize.generation.report_page import TEMPLATE
from materialize.svg_figure import svg_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild
    from materialize.generation.catalogue import Catalogue
    from materialize.generation.compared_lists import ComparedLists
    from materialize.generation.measures import ListSamples
    from materialize.generation.records import Generation
    from materialize.settings import Settings

REPORT = "report.html"
_NEW, _LIVE, _CHAMPION = "#0b6e99", "#b0b0b0", "#5f6b73"
_BINS = 40


@dataclass(frozen=True)
class TopItem:
    """An item that many lists begin with.

    Attributes:
        item_id, title: Which; the title is empty where it has none.
        share: Share of users who have it in their first ten.
    """

    item_id: int | str
    title: str
    share: float


def write_report(
    settings: Settings,
    catalogue: Catalogue,
    generation: Generation,
    live: Generation | None,
    build: FeatureBuild,
    lists: ComparedLists,
    samples: ListSamples,
) -> Path:
    """Write ``<warehouse>/generations/<id>/report.html``.

    Args:
        settings: Where to.
        catalogue: Holds its gates and blocks.
        generation: Which.
        live: The one that is served meanwhile, to compare with.
        build: Has the items' titles.
        lists: Its lists and the live ones.
        samples: What was measured of them.

    Raises:
        StorageError: If the page cannot be written.
    """
    quality = _quality(catalogue, generation, live)
    coverage = {
        "items in a first ten": len(samples.places) / max(generation.items, 1),
        "users with a list": lists.lists / max(generation.users, 1),
    }
    page = (
        Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        .from_string(TEMPLATE)
        .render(
            generation=catalogue.generation(generation.id),
            live=live,
            changed=lists.users if lists.is_delta else None,
            gone=sum(block.gone for block in catalogue.blocks(generation.id)),
            gates=catalogue.gate_results(generation.id),
            top_items=_top_items(samples, build),
            scores=svg_figure(lambda axes: _plot_scores(axes, samples)),
            churn=svg_figure(lambda axes: _plot_churn(axes, samples.churn)) if len(samples.churn) else "",
            coverage=svg_figure(lambda axes: _plot_coverage(axes, coverage)),
            popularity=svg_figure(lambda axes: _plot_concentration(axes, samples.places)),
            quality=svg_figure(lambda axes: _plot_quality(axes, quality)) if quality else "",
        )
    )
    path = report_path(settings, generation.id)
    aside = path.with_name(f".{REPORT}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StorageError.of_writing(f"the report {path}", error, path.parent) from error
    return path


def report_path(settings: Settings, generation_id: str) -> Path:
    """Where a generation's report is, once its gates have been measured."""
    return generation_folder(settings, generation_id) / REPORT


def _quality(
    catalogue: Catalogue, generation: Generation, live: Generation | None
) -> dict[str, float | None]:
    """NDCG@10 of the model, of its baselines, and of the live model, if that is another one."""
    metrics = read_offline_metrics(catalogue.model(generation.model_id).metrics)
    if metrics.model is None:
        return {}
    quality: dict[str, float | None] = {"this model": metrics.model, **metrics.baselines}
    if live is not None and live.model_id != generation.model_id:
        champion = read_offline_metrics(catalogue.model(live.model_id).metrics).model
        if champion is not None:
            quality["live model"] = champion
    return quality


def _top_items(samples: ListSamples, build: FeatureBuild) -> list[TopItem]:
    table = build.read_items(["item_id", "title"])
    titles = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    return [TopItem(item, titles.get(item) or "", share) for item, share in samples.top_items]


def _plot_scores(axes: Axes, samples: ListSamples) -> None:
    every = np.concatenate([samples.scores, samples.live_scores])
    if not len(every):
        return
    edges = np.linspace(every.min(), every.max() + 1e-6, _BINS + 1).tolist()
    for values, colour, name in (
        (samples.live_scores, _LIVE, "live"),
        (samples.scores, _NEW, "this generation"),
    ):
        if len(values):
            axes.hist(values, edges, density=True, histtype="stepfilled", alpha=0.6, color=colour, label=name)
    axes.set_xlabel("score")
    axes.set_yticks([])
    axes.legend(frameon=False)


def _plot_churn(axes: Axes, churn: NDArray[np.float64]) -> None:
    axes.hist(churn, np.linspace(0, 1, 21).tolist(), color=_NEW, weights=np.full(len(churn), 1 / len(churn)))
    axes.set_xlabel("share of a user's list that is new")
    axes.set_ylabel("share of users")


def _plot_concentration(axes: Axes, places: Sequence[int]) -> None:
    shares = np.cumsum(places, dtype=np.float64) / max(sum(places), 1)
    axes.plot(np.arange(1, len(shares) + 1), shares, color=_NEW)
    if len(shares) > TOP:
        axes.plot([TOP], shares[TOP - 1], "o", color=_NEW, label=f"{TOP} items: {shares[TOP - 1]:.1%}")
        axes.legend(frameon=False, loc="upper left")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("items, commonest first")
    axes.set_ylabel(f"share of top-{TOP} places")
    axes.set_ylim(0, 1.02)


def _plot_coverage(axes: Axes, shares: Mapping[str, float]) -> None:
    bars = axes.barh(list(shares), list(shares.values()), color=_NEW)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3)
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("share")


def _plot_quality(axes: Axes, quality: Mapping[str, float | None]) -> None:
    colours = {"this model": _NEW, "live model": _CHAMPION}
    names = sorted(quality, key=lambda name: quality[name] or 0.0)
    values = [quality[name] or 0.0 for name in names]
    bars = axes.barh(
        [name.replace("_", " ") for name in names], values, color=[colours.get(name, _LIVE) for name in names]
    )
    axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3)
    axes.set_xlim(0, max(values) * 1.15 or 1)
    axes.set_xlabel(f"NDCG@{TOP}, each model on its own window")
