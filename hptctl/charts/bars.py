"""Figures, or differences of figures, one below the other: a dot with a line for its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.transforms
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hptctl.charts.style import CHARACTER, GRID, MUTED, STYLE, blank, colour_of, marker, percent_ticks, shortened
from hptctl.charts.svg import as_svg
from hptctl.format import MINUS


@dataclass(frozen=True)
class Bar:
    """One figure or difference, as a share. A line is drawn from `low` to `high` where both are finite."""

    name: str
    strategy: str
    value: float
    low: float
    high: float
    label: str
    """The figure as text."""


def bars(found: Sequence[Bar], alt: str, key: str, *, differences: bool = False) -> Markup:
    """A row for each: a dot at the figure, a line for its uncertainty, and the figure as text.

    `differences` are in points, around a line at 0.
    """
    height = 34 + 26 * len(found)
    with matplotlib.rc_context(STYLE):
        names = [shortened(bar.name, 18) for bar in found]
        labels = [bar.label for bar in found]
        left, right = (round(14 + CHARACTER * max(map(len, texts))) for texts in (names, labels))
        figure, axes = blank(height, left=left, bottom=26, top=4, right=right)
        ends = [value for bar in found for value in (bar.low, bar.value, bar.high) if math.isfinite(value)]
        low, high = min([*ends, 0.0] if differences else ends), max([*ends, 0.0] if differences else ends)
        span = max(high - low, 0.02)
        axes.set_xlim(low - 0.05 * span, high + 0.05 * span)
        axes.set_ylim(len(found) - 0.5, -0.6)
        sides = matplotlib.transforms.blended_transform_factory(figure.transFigure, axes.transData)
        for row, bar in enumerate(found):
            colour = colour_of(bar.strategy)
            axes.axhline(row, color=GRID, linewidth=0.8)
            if math.isfinite(bar.low) and math.isfinite(bar.high):
                axes.plot([bar.low, bar.high], [row, row], color=colour, linewidth=2.4)
            if math.isfinite(bar.value):
                axes.plot([bar.value], [row], color=colour, **marker(bar.strategy, 8))
            axes.text(0.005, row, names[row], transform=sides, va="center", ha="left")
            axes.text(0.995, row, labels[row], transform=sides, va="center", ha="right")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_points_tick) if differences else percent_ticks(span))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x")
        if differences:
            axes.axvline(0, color=MUTED, linewidth=1.2)
        return as_svg(figure, alt, key)


def _points_tick(value: float, _: int | None = None) -> str:
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(100 * value):g}"
