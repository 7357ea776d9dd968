"""Curves of strategies, each named at its end: figures against steps or over categories, losses, measures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hptctl.charts.style import CHARACTER, MUTED, STYLE, WIDTH, blank, colour_of, marker, percent_ticks, shortened
from hptctl.charts.svg import as_svg
from hptctl.format import compact

NAME = 17
"""Most characters of a line's name; longer ones are cut."""
DASHED = (0, (5, 3))
BAND = 0.16
"""Opacity of a band, low enough for the contrast of what lies on it."""


@dataclass(frozen=True)
class Line:
    """One line of a curve: (pretraining steps, figure, spread) by steps."""

    arm: str
    strategy: str
    points: tuple[tuple[float, float, float], ...]
    decayed: bool = True
    """Whether the learning rate had come to its end; dashed where it had not."""


@dataclass(frozen=True)
class LabelLine:
    """What labels buy with one backbone."""

    name: str
    strategy: str
    points: tuple[tuple[float, float, float, float], ...]
    """(labels, figure, lower end, upper end) by labels."""


@dataclass(frozen=True)
class EquallyGood:
    """Where one backbone is as good as another one with more labels."""

    figure: float
    labels: float
    of: float
    """The other one's labels."""


def by_labels(lines: Sequence[LabelLine], equal: Sequence[EquallyGood], metric: str, alt: str, key: str) -> Markup:
    """Figure on val against training labels, log x, with bands of intervals; dashed from one line to what it equals."""
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(270, right=_room(line.name for line in lines))
        labels = sorted({point[0] for line in lines for point in line.points})
        axes.set_xscale("log")
        axes.set_xlim(labels[0] / 1.3, labels[-1] * 1.3)
        for line in lines:
            colour = colour_of(line.strategy)
            x, y, low, high = (list(column) for column in zip(*line.points, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
            axes.plot(x, y, color=colour, **marker(line.strategy, 10 if line.strategy == "hpt-bn" else 7))
        for each in equal:
            axes.plot([each.labels, each.of], [each.figure] * 2, color=MUTED, linewidth=1.2, linestyle=DASHED)
        _share_axis(axes)
        _step_axis(axes, "training labels (log scale)")
        axes.set_xticks(_apart(labels, 1.2 * math.log(labels[-1] / labels[0] * 1.3**2)), minor=False)  # they are long
        axes.set_title(f"val {metric}", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, [(line.points[-1][1], line.name, line.strategy) for line in lines])
        return as_svg(figure, alt, key)


def against_steps(lines: Sequence[Line], metric: str, alt: str, key: str) -> Markup:
    """Test figure against pretraining steps, log x, with a band of one spread. An arm of no steps is a dashed level."""
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(250, right=_room(line.arm for line in lines))
        steps = sorted({step for line in lines for step, _, _ in line.points if step > 0})
        axes.set_xscale("log")
        axes.set_xlim(steps[0] / 1.6, steps[-1] * 1.6)
        labels = []
        for line in lines:
            colour = colour_of(line.strategy)
            _, y, spread = (list(column) for column in zip(*line.points, strict=True))
            if not any(step for step, _, _ in line.points):
                level = _drawn(spread[0])
                axes.axhspan(y[0] - level, y[0] + level, color=colour, alpha=BAND, linewidth=0)
                axes.axhline(y[0], color=colour, linewidth=1.6, linestyle=DASHED)
            else:
                _line_with_band(axes, line)
            labels.append((y[-1], line.arm, line.strategy))
        _share_axis(axes)
        _step_axis(axes, "pretraining steps (log scale)")
        axes.set_xticks(_apart(steps, math.log(steps[-1] / steps[0] * 1.6**2)), minor=False)
        axes.set_title(f"test {metric}", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, labels)
        return as_svg(figure, alt, key)


def over(categories: Sequence[str], lines: Sequence[Line], metric: str, alt: str, key: str) -> Markup:
    """Test figure over categories in their order; a line's points are (number of the category, figure, spread)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(250, right=_room(line.arm for line in lines), bottom=64)
        for line in lines:
            _line_with_band(axes, line)
        _share_axis(axes)
        axes.set_xlim(-0.25, len(categories) - 0.75)
        axes.set_xticks(range(len(categories)), [shortened(name, 14) for name in categories], rotation=25, ha="right")
        axes.tick_params(length=0)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_title(f"test {metric}", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, [(line.points[-1][1], line.arm, line.strategy) for line in lines])
        return as_svg(figure, alt, key)


def measures(
    panels: Mapping[str, Mapping[tuple[str, str], Sequence[tuple[float, float]]]], alt: str, key: str
) -> Markup:
    """Measures of the representation during pretraining, one above the other.

    `panels`: name -> (label, strategy) -> (step, figure).
    """
    each, head, foot = 92, 22, 40
    height = len(panels) * (each + head) + foot
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        right = _room(label for curves in panels.values() for label, _ in curves)
        steps = {step for curves in panels.values() for points in curves.values() for step, _ in points}
        first = min((step for step in steps if step > 0), default=1.0)
        for number, (name, curves) in enumerate(panels.items()):
            bottom = height - (number + 1) * (each + head)
            axes = figure.add_axes((46 / WIDTH, bottom / height, (WIDTH - 46 - right) / WIDTH, each / height))
            axes.set_xscale("symlog", linthresh=first, linscale=0.4)  # step 0 has its own place
            axes.set_xlim(0 if 0 in steps else first / 1.3, max(steps) * 1.3)
            labels = []
            for (label, strategy), points in curves.items():
                x, y = zip(*points, strict=True)
                colour = colour_of(strategy)
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
        return as_svg(figure, alt, key)


def losses(curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]], alt: str, key: str) -> Markup:
    """Pretraining loss by step, log x. `curves`: (label, strategy) -> (step, loss)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(250, right=_room(label for label, _ in curves))
        axes.set_xscale("log")
        labels = []
        for (label, strategy), points in curves.items():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour_of(strategy), linewidth=1.6)
            labels.append((y[-1], label, strategy))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        _step_axis(axes, "pretraining step (log scale)")
        first, last = axes.get_xlim()
        subs = (1.0, 2.0, 5.0) if last / first < 50 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axes.set_title("InfoNCE loss", loc="left", fontsize=11, color=MUTED)
        _label_ends(axes, labels)
        return as_svg(figure, alt, key)


def _line_with_band(axes: Axes, line: Line) -> None:
    colour = colour_of(line.strategy)
    x, y, spread = (list(column) for column in zip(*sorted(line.points), strict=True))
    size = 10 if line.strategy == "hpt-bn" else 7
    if len(x) > 1:
        low = [value - _drawn(width) for value, width in zip(y, spread, strict=True)]
        high = [value + _drawn(width) for value, width in zip(y, spread, strict=True)]
        axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.plot(x, y, color=colour, linestyle="-" if line.decayed else DASHED, **marker(line.strategy, size))
    else:
        yerr = [_drawn(width) for width in spread]
        axes.errorbar(x, y, yerr=yerr, color=colour, elinewidth=1.2, **marker(line.strategy, size))


def _share_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(percent_ticks(high - low))


def _room(names: Iterable[str]) -> int:
    """Units to the right of a chart that the names of its lines need."""
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
    """The steps to label: without those whose labels would touch the next one."""
    kept: list[float] = []
    for step in reversed(steps):
        if not kept or math.log(kept[-1] / step) / decades > 0.13:
            kept.append(step)
    return kept


def _label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each line's name at the right edge, at the height of its end, moved where names would overlap."""
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
        colour = colour_of(strategy)
        right = axes.get_yaxis_transform()
        axes.plot([1.03, 1.055], [place, place], transform=right, color=colour, linewidth=3, clip_on=False)
        axes.text(1.075, place, shortened(name, NAME), transform=right, va="center", ha="left", fontsize=11)
    axes.set_ylim(low, high)


def _drawn(spread: float) -> float:
    return spread if math.isfinite(spread) else 0.0
