"""Figures as inline SVG: matplotlib draws, the page's style sheet colours.

Every neutral and every strategy has a fixed colour here that becomes a CSS variable in the SVG, so that one
picture serves light, dark and print. Text stays text: it can be searched, and takes the page's font. The same
figures give the same bytes: no date, no random ids.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.transforms
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hpt.errors import ConfigError
from hpt.files import replacing

WIDTH = 360
"""Units of a chart's width: about its pixels on the page, so that type is the same size in all of them."""
CHARACTER = 6.8
"""Units of a character's width in the charts' type, on the safe side: the reader's font is not known here."""
INK, MUTED, GRID, SURFACE = "#100f0e", "#5c5b5a", "#dad9d8", "#fefdfc"
COLOURS = {  # Okabe and Ito's, told apart under the common colour-vision deficiencies
    "base": "#555657",
    "target": "#d55e01",
    "hpt": "#0072b3",
    "hpt-bn": "#009e74",
    "weights": "#cc79a8",
}
OTHER = COLOURS["weights"]
NAME = 17
"""Characters of a line's name; what is longer is cut."""
BAND = 0.16
"""Opacity of a band: figures on it keep their contrast."""
MARKERS = {"base": "s", "target": "^", "hpt": "o", "hpt-bn": "X"}
_VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--{name})" for name, colour in COLOURS.items()},
}
_STYLE: Any = {  # matplotlib types its keys as one Literal of three hundred
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titley": 1.0,  # looking for a free place would be a tenth of the drawing
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Bar:
    """One figure, or one difference of figures; shares. A line is drawn from `low` to `high` where they are finite."""

    name: str
    strategy: str
    value: float
    low: float
    high: float
    label: str
    """The figure in words."""


@dataclass(frozen=True)
class Line:
    """One line of a curve: (pretraining steps, figure, spread) by steps."""

    arm: str
    strategy: str
    points: tuple[tuple[float, float, float], ...]


def bars(found: Sequence[Bar], alt: str, key: str, *, differences: bool = False) -> Markup:
    """A row each: a dot at its figure, a line for what it may be, the figure in words beside it.

    `differences` are in points, around a line at 0.
    """
    height = 34 + 26 * len(found)
    with matplotlib.rc_context(_STYLE):
        names = [_short(bar.name, 18) for bar in found]
        labels = [bar.label for bar in found]
        left, right = (round(14 + CHARACTER * max(map(len, texts))) for texts in (names, labels))
        figure, axes = _blank(height, left=left, bottom=26, top=4, right=right)
        ends = [value for bar in found for value in (bar.low, bar.value, bar.high) if math.isfinite(value)]
        low, high = min([*ends, 0.0] if differences else ends), max([*ends, 0.0] if differences else ends)
        span = max(high - low, 0.02)
        axes.set_xlim(low - 0.05 * span, high + 0.05 * span)
        axes.set_ylim(len(found) - 0.5, -0.6)
        sides = matplotlib.transforms.blended_transform_factory(figure.transFigure, axes.transData)
        for row, bar in enumerate(found):
            colour = COLOURS.get(bar.strategy, OTHER)
            axes.axhline(row, color=GRID, linewidth=0.8)
            if math.isfinite(bar.low) and math.isfinite(bar.high):
                axes.plot([bar.low, bar.high], [row, row], color=colour, linewidth=2.4)
            if math.isfinite(bar.value):
                axes.plot([bar.value], [row], color=colour, **_marker(bar.strategy, 8))
            axes.text(0.005, row, names[row], transform=sides, va="center", ha="left")
            axes.text(0.995, row, labels[row], transform=sides, va="center", ha="right")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_points_tick) if differences else _percent_ticks(span))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x")
        if differences:
            axes.axvline(0, color=MUTED, linewidth=1.2)
        return _svg(figure, alt, key)


def against_steps(lines: Sequence[Line], metric: str, alt: str, key: str) -> Markup:
    """Test figure against pretraining steps, log x, with a band of one spread. An arm of no steps is a dashed level."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _blank(250, right=_room(line.arm for line in lines))
        steps = sorted({step for line in lines for step, _, _ in line.points if step > 0})
        axes.set_xscale("log")
        axes.set_xlim(steps[0] / 1.6, steps[-1] * 1.6)
        labels = []
        for line in lines:
            colour = COLOURS.get(line.strategy, OTHER)
            _, y, spread = (list(column) for column in zip(*line.points, strict=True))
            if not any(step for step, _, _ in line.points):
                level = _drawn(spread[0])
                axes.axhspan(y[0] - level, y[0] + level, color=colour, alpha=BAND, linewidth=0)
                axes.axhline(y[0], color=colour, linewidth=1.6, linestyle=(0, (5, 3)))
            else:
                _line_with_band(axes, line)
            labels.append((y[-1], line.arm, line.strategy))
        _share_axis(axes)
        _step_axis(axes, "pretraining steps (log scale)")
        axes.set_xticks(_apart(steps, math.log(steps[-1] / steps[0] * 1.6**2)), minor=False)
        axes.set_title(f"test {metric}", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, labels)
        return _svg(figure, alt, key)


def over(categories: Sequence[str], lines: Sequence[Line], metric: str, alt: str, key: str) -> Markup:
    """Test figure over categories in their order; a line's points are (number of the category, figure, spread)."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _blank(250, right=_room(line.arm for line in lines), bottom=64)
        for line in lines:
            _line_with_band(axes, line)
        _share_axis(axes)
        axes.set_xlim(-0.25, len(categories) - 0.75)
        axes.set_xticks(range(len(categories)), [_short(name, 14) for name in categories], rotation=25, ha="right")
        axes.tick_params(length=0)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_title(f"test {metric}", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, [(line.points[-1][1], line.arm, line.strategy) for line in lines])
        return _svg(figure, alt, key)


def measures(
    panels: Mapping[str, Mapping[tuple[str, str], Sequence[tuple[float, float]]]], alt: str, key: str
) -> Markup:
    """Looks at the backbone on its way, one measure above the other: name -> (label, strategy) -> (step, figure)."""
    each, head, foot = 92, 22, 40
    height = len(panels) * (each + head) + foot
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        right = _room(label for curves in panels.values() for label, _ in curves)
        steps = {step for curves in panels.values() for points in curves.values() for step, _ in points}
        first = min((step for step in steps if step > 0), default=1.0)
        for number, (name, curves) in enumerate(panels.items()):
            bottom = height - (number + 1) * (each + head)
            axes = figure.add_axes((46 / WIDTH, bottom / height, (WIDTH - 46 - right) / WIDTH, each / height))
            axes.set_xscale("symlog", linthresh=first, linscale=0.4)  # a look at step 0 has a place of its own
            axes.set_xlim(0 if 0 in steps else first / 1.3, max(steps) * 1.3)
            labels = []
            for (label, strategy), points in curves.items():
                x, y = zip(*points, strict=True)
                colour = COLOURS.get(strategy, OTHER)
                axes.plot(x, y, color=colour, linewidth=1.6)
                labels.append((y[-1], label, strategy))
            axes.margins(y=0.15)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
            _step_axis(axes, "pretraining step (log scale)" if number == len(panels) - 1 else "")
            decades = [10.0**power for power in range(math.ceil(math.log10(first)), int(math.log10(max(steps))) + 1)]
            axes.set_xticks([*([0.0] if 0 in steps else ()), *(decades or [max(steps)])])
            if number < len(panels) - 1:
                axes.tick_params(labelbottom=False)
            axes.set_title(name, loc="left", fontsize=11, color=MUTED)
            _label_ends(axes, labels)
        return _svg(figure, alt, key)


def losses(curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]], alt: str, key: str) -> Markup:
    """Pretraining loss by step, log x. `curves`: (label, strategy) -> (step, loss)."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _blank(250, right=_room(label for label, _ in curves))
        axes.set_xscale("log")
        labels = []
        for (label, strategy), points in curves.items():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=COLOURS.get(strategy, OTHER), linewidth=1.6)
            labels.append((y[-1], label, strategy))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        _step_axis(axes, "pretraining step (log scale)")
        first, last = axes.get_xlim()
        subs = (1.0, 2.0, 5.0) if last / first < 50 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axes.set_title("InfoNCE loss", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, labels)
        return _svg(figure, alt, key)


@dataclass(frozen=True)
class Cloud:
    """Points of one kind on a map."""

    name: str
    points: Sequence[tuple[float, float]]
    muted: bool = False
    """Drawn grey and behind the others."""


CLOUD_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#6d4c9f", "#8c6d1f")
"""Okabe and Ito's, with two darker ones for their yellow and black; a ninth kind has the first and another marker."""
CLOUD_MARKERS = ("o", "^", "s")
MOST_CLOUDS = 12
"""Kinds that are told apart on a map."""


def plane(clouds: Sequence[Cloud], title: str, axes_of: tuple[str, str]) -> Figure:
    """A map of images in two dimensions: a colour and marker for each kind, named beside it."""
    with matplotlib.rc_context(_STYLE | {"figure.facecolor": SURFACE}):
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
            # Thousands of dots as paths would make a slow file of megabytes.
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
    """Shares 0 to 1 of every row with every column, in shades, the figures in the cells where they have room."""
    with matplotlib.rc_context(_STYLE | {"figure.facecolor": SURFACE}):
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


FIGURES = (".svg", ".png", ".pdf")


def save(figure: Figure, path: Path) -> None:
    """Write a figure, the same bytes each time, by its suffix, atomically.

    Raises:
        ConfigError: another suffix than these, or no such folder.
    """
    check_figure(path)
    quiet: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}
    with (
        replacing(path) as part,
        part.open("wb") as file,
        matplotlib.rc_context({"svg.hashsalt": "hptctl", "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(file, format=path.suffix[1:], metadata=quiet[path.suffix], dpi=150)


def check_figure(path: Path) -> None:
    """A ConfigError when a figure cannot be written there."""
    if path.suffix not in FIGURES:
        raise ConfigError(f"a figure cannot be written as '{path.name}'", f"end it in {', '.join(FIGURES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", "make it, or choose another file")


def standalone(svg: Markup) -> str:
    """A chart as a file of its own: its colours as they are on a light page, which is there too."""
    text = str(svg)
    for colour, variable in _VARIABLES.items():
        text = text.replace(variable, colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = "<style>text { font-family: system-ui, 'DejaVu Sans', sans-serif }</style>"
    page = f'{style}<rect width="100%" height="100%" fill="{SURFACE}"/>'
    head, rest = text.split(">", 1)
    return f"{head.replace('<svg', f'<svg {names}', 1)}>{page}{rest}\n"


def font_file() -> Path:
    """DejaVu Sans, which comes with matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def percent(share: float, digits: int = 1) -> str:
    """`0.8432` -> `84.3 %`, with a space that does not break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def compact(steps: float) -> str:
    """`400000` -> `400k`."""
    return f"{steps / 1000:g}k" if steps >= 1000 else f"{steps:g}"


def _line_with_band(axes: Axes, line: Line) -> None:
    colour = COLOURS.get(line.strategy, OTHER)
    x, y, spread = (list(column) for column in zip(*sorted(line.points), strict=True))
    size = 10 if line.strategy == "hpt-bn" else 7
    if len(x) > 1:
        low = [value - _drawn(width) for value, width in zip(y, spread, strict=True)]
        high = [value + _drawn(width) for value, width in zip(y, spread, strict=True)]
        axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.plot(x, y, color=colour, **_marker(line.strategy, size))
    else:
        yerr = [_drawn(width) for width in spread]
        axes.errorbar(x, y, yerr=yerr, color=colour, elinewidth=1.2, **_marker(line.strategy, size))


def _share_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(_percent_ticks(high - low))


def _points_tick(value: float, _: int | None = None) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{abs(100 * value):g}"


def _blank(height: int, *, left: int = 46, right: int = 82, top: int = 24, bottom: int = 40) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.set_title("")  # which fixes where it is
    return figure, axes


def _room(names: Iterable[str]) -> int:
    """Units to the right of a chart for the names of its lines."""
    return max(82, round(30 + 0.95 * CHARACTER * min(max(map(len, names)), NAME)))


def _step_axis(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _apart(steps: Sequence[float], decades: float) -> list[float]:
    """The lengths that were run, without those whose labels would touch the one before."""
    kept: list[float] = []
    for step in reversed(steps):
        if not kept or math.log(kept[-1] / step) / decades > 0.13:
            kept.append(step)
    return kept


def _label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Each line's name at the right edge, at its last figure's height; apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    line = 13 * (high - low) / height
    ordered = sorted(labels)
    places = [y for y, _, _ in ordered]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + line)
    if places and places[-1] > high:
        places[-1] = high
        for i in reversed(range(len(places) - 1)):
            places[i] = min(places[i], places[i + 1] - line)
    for place, (_, name, strategy) in zip(places, ordered, strict=True):
        colour = COLOURS.get(strategy, OTHER)
        right = axes.get_yaxis_transform()
        axes.plot([1.03, 1.055], [place, place], transform=right, color=colour, linewidth=3, clip_on=False)
        axes.text(1.075, place, _short(name, NAME), transform=right, va="center", ha="left", fontsize=11)
    axes.set_ylim(low, high)


def _marker(strategy: str, size: float) -> dict[str, Any]:
    marker = MARKERS.get(strategy, "D")
    return {
        "marker": marker,
        "markersize": size * (1.3 if marker == "^" else 1.0),  # a triangle fills half of its square
        "markeredgecolor": SURFACE,
        "markeredgewidth": 1.2,
    }


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _drawn(spread: float) -> float:
    return spread if math.isfinite(spread) else 0.0


def _percent_ticks(span: float) -> FuncFormatter:
    digits = 0 if span >= 0.04 else 1
    return FuncFormatter(lambda value, _: percent(value, digits))


def _svg(figure: Figure, alt: str, key: str) -> Markup:
    """The figure as one `<svg role="img">` for a page of many: no ids but those it refers to itself."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}), warnings.catch_warnings():
        # Glyphs that matplotlib's font lacks are drawn by the reader's fonts: the text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for superfluous in _SUPERFLUOUS:
        text = re.sub(superfluous, "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    while "<g/>" in text or re.search(r"<g>\s*</g>", text):
        text = re.sub(r"<g/>\s*|<g>\s*</g>\s*", "", text)
    # A hundredth of a unit is less than a screen shows.
    text = re.sub(r'( (?:d|x|y|transform)="[^"]*")', lambda found: _rounded(found.group()), text)
    text = re.sub(r"^<svg [^>]*>", _opening(text, alt), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(re.sub(r"\n\s*", "\n", text))


_SUPERFLUOUS = (
    r"<metadata>.*?</metadata>\s*",
    r"<!--.*?-->\s*",  # each label once more
    r"font-family: [^;\"]*;? ?",  # the page's
    r' transform="rotate\(-0 [^)]*\)"',
    r'<path d="[^"]*" style="fill: none"/>\s*',
)
"""Two thirds of what matplotlib writes."""


def _rounded(attribute: str) -> str:
    attribute = " ".join(attribute.split("\n")).replace(' "', '"')
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), attribute)


def _opening(text: str, alt: str) -> str:
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    return f'<svg {box.group()} role="img" aria-label="{escape(alt)}">'.replace("\\", r"\\")
