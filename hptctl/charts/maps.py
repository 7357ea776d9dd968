"""Maps of features: images in the plane, and layers against layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from hptctl.charts.style import INK, STYLE, SURFACE


@dataclass(frozen=True)
class Cloud:
    """The points of one class on a map."""

    name: str
    points: Sequence[tuple[float, float]]
    muted: bool = False
    """Whether it is drawn grey and behind the others."""


CLOUD_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#6d4c9f", "#8c6d1f")
"""Okabe and Ito's, with two darker ones for their yellow and black; a ninth class has the first with another marker."""
CLOUD_MARKERS = ("o", "^", "s")
MOST_CLOUDS = 12
"""Most classes that can be told apart on a map."""


def plane(clouds: Sequence[Cloud], title: str, axes_of: tuple[str, str]) -> Figure:
    """A map of images in two dimensions: a colour and a marker for each class, named beside the map."""
    with matplotlib.rc_context(STYLE | {"figure.facecolor": SURFACE}):
        figure = Figure(figsize=(10, 6.6))
        axes = figure.add_axes((0.07, 0.09, 0.66, 0.82))
        count = sum(len(cloud.points) for cloud in clouds)
        size = max(6.0, min(36.0, 20_000 / max(count, 1)))
        coloured = 0
        for cloud in sorted(clouds, key=lambda cloud: not cloud.muted):
            colour, marker = "#b9b8b7", "."
            if not cloud.muted:
                colour = CLOUD_COLOURS[coloured % len(CLOUD_COLOURS)]
                marker = CLOUD_MARKERS[coloured // len(CLOUD_COLOURS)]
                coloured += 1
            x, y = zip(*cloud.points, strict=True)
            # As paths, thousands of dots make a file of megabytes that is slow to show.
            axes.scatter(
                x,
                y,
                s=size,
                c=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
                label=cloud.name,
                rasterized=count > 2000,
            )
        axes.set_title(title, loc="left", fontsize=12, color=INK)
        axes.set_xlabel(axes_of[0])
        axes.set_ylabel(axes_of[1])
        axes.set_xticks([])
        axes.set_yticks([])
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=10, handletextpad=0.3, labelcolor=INK
        )
        for handle in legend.legend_handles:
            handle.set_alpha(1.0)  # type: ignore[union-attr]
            handle.set_sizes([40])  # type: ignore[union-attr]
        return figure


def matrix(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Shares, 0 to 1, of every row with every column, as shades with the figure in each cell; NaN stays empty."""
    with matplotlib.rc_context(STYLE | {"figure.facecolor": SURFACE}):
        cell = 0.5 if max(len(rows), len(columns)) <= 12 else 0.36
        width, height = 2.2 + cell * len(columns), 1.9 + cell * len(rows)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((1.1 / width, 1.1 / height, 1 - 1.5 / width, 1 - 1.6 / height))
        axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=9)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        axes.tick_params(length=0)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                ink = "#ffffff" if value < 0.6 else "#000000"
                text = "" if math.isnan(value) else f"{value:.2f}".lstrip("0")
                axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=7)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        for side in axes.spines.values():
            side.set_visible(False)
        return figure
