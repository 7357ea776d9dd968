"""How charts look: their size and type, a colour and a marker for each strategy, axes and ticks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hptctl.format import percent, unbroken

WIDTH = 360
"""Width of a chart in units, about its pixels on the page, so that all charts have type of one size."""
CHARACTER = 6.8
"""Width of a character in units, rather too wide: the reader's font is not known here."""
INK, MUTED, GRID, SURFACE = "#100f0e", "#5c5b5a", "#dad9d8", "#fefdfc"
COLOURS = {  # Okabe and Ito's, told apart under the common colour-vision deficiencies
    "untrained": "#8d8e90",
    "base": "#555657",
    "target": "#d55e01",
    "hpt": "#0072b3",
    "hpt-bn": "#009e74",
    "weights": "#cc79a8",
}
MARKERS = {"untrained": "v", "base": "s", "target": "^", "hpt": "o", "hpt-bn": "X"}
NEUTRAL: Any = {  # matplotlib types its keys as one Literal of three hundred
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
"""Settings of every chart."""
STYLE: Any = NEUTRAL | {
    "font.size": 12,
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.titley": 1.0,  # looking for a free place takes a tenth of the drawing
    "figure.facecolor": "none",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}
"""Settings of charts for a page."""


def colour_of(strategy: str) -> str:
    """The colour of a strategy; whatever is not one has that of `weights`."""
    return COLOURS.get(strategy, COLOURS["weights"])


def marker(strategy: str, size: float) -> dict[str, Any]:
    """The marker of a strategy, `size` units wide, as matplotlib's `plot` takes it."""
    shape = MARKERS.get(strategy, "D")
    return {
        "marker": shape,
        "markersize": size * (1.3 if shape == "^" else 1.0),  # a triangle fills half of its square
        "markeredgecolor": SURFACE,
        "markeredgewidth": 1.2,
    }


def blank(height: int, *, left: int = 46, right: int = 82, top: int = 24, bottom: int = 40) -> tuple[Figure, Axes]:
    """An empty chart of the page's width, with margins; all of them in units."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.set_title("")  # which fixes its place
    return figure, axes


def shortened(name: str, length: int) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def percent_ticks(span: float) -> FuncFormatter:
    """Labels of an axis of shares that is `span` long."""
    digits = 0 if span >= 0.04 else 1
    return FuncFormatter(lambda value, _: unbroken(percent(value, digits)))


def font_file() -> Path:
    """The file of DejaVu Sans, which comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
