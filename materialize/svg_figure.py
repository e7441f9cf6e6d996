"""Draws a plot as inline SVG for a page that is one file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes


def svg_figure(draw: Callable[[Axes], None], height: float = 2.8) -> Markup:
    """The plot that ``draw`` makes; without date and random ids, so that the same plot is the same bytes.

    Args:
        draw: Draws into the axes.
        height: In inches; the width is 6.
    """
    figure = Figure(figsize=(6, height))
    # A third of the time of a layout engine.
    figure.subplots_adjust(left=0.3, right=0.98, top=1 - 0.15 / height, bottom=0.56 / height)
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "prescore"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes what it draws
