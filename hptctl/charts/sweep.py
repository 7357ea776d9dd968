"""Plots of a sweep as SVG files: history, parallel coordinates, heat map, importance, timeline of workers.

One palette and one type size for all, and the same trials give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hptctl.charts.style import COLOURS, GRID, INK, MUTED, NEUTRAL, SURFACE
from hptctl.charts.svg import save
from hptctl.format import percent, unbroken

STATES = {"complete": COLOURS["hpt"], "pruned": "#b9b8b6", "fail": COLOURS["target"]}
SCALE = LinearSegmentedColormap.from_list("val", ["#dfe9f1", COLOURS["hpt"], "#00263c"])
_STYLE: Any = NEUTRAL | {"font.size": 10, "axes.facecolor": SURFACE, "figure.facecolor": SURFACE}


@dataclass(frozen=True)
class DrawnTrial:
    """What is drawn of a trial."""

    number: int
    state: str
    params: Mapping[str, Any]
    value: float | None
    """Val, a share from 0 to 1; None where there is no figure."""
    worker: str
    started: float | None
    ended: float | None
    """Seconds since 1970."""


def write(
    folder: Path,
    points: Sequence[DrawnTrial],
    names: Sequence[str],
    importances: Mapping[str, float],
    *,
    log: Sequence[str] = (),
) -> list[Path]:
    """Draw the plots that the trials allow, into `folder`; `log` names the parameters with a logarithmic scale."""
    done = [point for point in points if point.value is not None]
    drawn = {}
    with matplotlib.rc_context(_STYLE):
        if done:
            drawn["sweep-history"] = _history(points)
            drawn["sweep-parallel"] = _parallel(done, names, log)
        if {"lr", "schedule"} <= set(names) and done:
            drawn["sweep-heat-map"] = _heat_map(done)
        if len(importances) > 1:
            drawn["sweep-importance"] = _importance(importances)
        if any(point.started for point in points):
            drawn["sweep-timeline"] = _timeline(points)
        paths = {folder / f"{name}.svg": figure for name, figure in drawn.items()}
        for path, figure in paths.items():
            save(figure, path, salt="sweep")
        return list(paths)


def _history(points: Sequence[DrawnTrial]) -> Figure:
    """Val of each trial in the order of their numbers, and the best so far."""
    figure, axes = _blank(6.4, 3.2)
    done = [point for point in points if point.value is not None]
    best, steps = -math.inf, []
    for point in done:
        best = max(best, point.value or 0.0)
        steps.append(best)
    axes.step([p.number for p in done], steps, where="post", color=INK, linewidth=1.2, label="best so far")
    axes.plot([p.number for p in done], [p.value or 0.0 for p in done], "o", color=STATES["complete"], label="complete")
    low = min(p.value or 0.0 for p in done)
    for state, marker in (("pruned", "v"), ("fail", "x")):
        those = [p.number for p in points if p.state == state]
        if those:
            axes.plot(those, [low] * len(those), marker, color=STATES[state], label=state)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percents(axes, "val")
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    return figure


def _parallel(done: Sequence[DrawnTrial], names: Sequence[str], log: Sequence[str]) -> Figure:
    """Each complete trial as a line through its values, the better the darker; the best is thick."""
    figure, axes = _blank(max(4.8, 1.8 * (len(names) + 1)), 3.6)
    low, high = _limits(done)
    places = {name: _places([p.params[name] for p in done], name in log) for name in names}
    order = sorted(range(len(done)), key=lambda i: done[i].value or 0.0)
    for i in order:
        value = done[i].value or 0.0
        heights = [places[name][0][i] for name in names] + [(value - low) / ((high - low) or 1.0)]
        colour = SCALE((value - low) / ((high - low) or 1.0))
        axes.plot(range(len(heights)), heights, color=colour, linewidth=2.6 if i == order[-1] else 1.1, alpha=0.9)
    axes.set_xticks(range(len(names) + 1), [*names, "val"])
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(names) + 0.35)
    for x, ticks in enumerate(
        [*(places[name][1] for name in names), [(0.0, unbroken(percent(low))), (1.0, unbroken(percent(high)))]]
    ):
        axes.axvline(x, color=GRID, zorder=0)
        for height, text in ticks:
            axes.annotate(
                text, (x, height), xytext=(3, 2), textcoords="offset points", fontsize=8, color=MUTED,
                bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )  # fmt: skip
    axes.spines[:].set_visible(False)
    return figure


def _heat_map(done: Sequence[DrawnTrial]) -> Figure:
    """Val by learning rate and schedule: the cells of a grid, or a point for each trial of a range."""
    schedules = sorted({str(p.params["schedule"]) for p in done}, key=lambda text: (len(text), text))
    figure, axes = _blank(6.4, 1.4 + 0.5 * len(schedules))
    low, high = _limits(done)
    rates = sorted({float(p.params["lr"]) for p in done})
    cells = len(rates) * len(schedules) <= 60 and len(done) >= len(rates) * len(schedules) / 2
    if cells:
        values: dict[tuple[int, int], float] = {}
        for p in done:
            at = schedules.index(str(p.params["schedule"])), rates.index(float(p.params["lr"]))
            values[at] = max(p.value or 0.0, values.get(at, 0.0))
        for (row, column), value in values.items():
            share = (value - low) / ((high - low) or 1.0)
            axes.barh(row, 0.96, 0.92, column - 0.48, color=SCALE(share))
            dark = share > 0.45
            axes.text(column, row, unbroken(percent(value)), ha="center", va="center", color=SURFACE if dark else INK)
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    else:
        axes.scatter(
            [float(p.params["lr"]) for p in done],
            [schedules.index(str(p.params["schedule"])) for p in done],
            c=[p.value or 0.0 for p in done], cmap=SCALE, s=90, edgecolors=INK, linewidths=0.4,
        )  # fmt: skip
        axes.set_xscale("log")
        _bar(figure, axes, Normalize(low, high))
    axes.set_yticks(range(len(schedules)), schedules)
    axes.set_ylim(len(schedules) - 0.5, -0.5)
    axes.set_xlabel("learning rate")
    axes.spines[:].set_visible(False)
    return figure


def _importance(importances: Mapping[str, float]) -> Figure:
    """Which parameter the objective depends on most."""
    figure, axes = _blank(6.4, 1.0 + 0.35 * len(importances))
    ordered = sorted(importances.items(), key=lambda pair: pair[1])
    axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=COLOURS["hpt"], height=0.6)
    for row, (_, share) in enumerate(ordered):
        axes.text(share, row, f" {share:.2f}", va="center")
    axes.set_xlabel("share of val's variation that it explains (PED-ANOVA)")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)
    return figure


def _timeline(points: Sequence[DrawnTrial]) -> Figure:
    """When each worker was at which trial."""
    begun = [point for point in points if point.started is not None]
    workers = sorted({point.worker for point in begun})
    figure, axes = _blank(6.4, 1.2 + 0.42 * len(workers))
    start = min(point.started or 0.0 for point in begun)
    last = max(point.ended or point.started or 0.0 for point in begun)
    size, unit = (3600, "hours") if last - start > 7200 else (60, "minutes") if last - start > 180 else (1, "seconds")
    for point in begun:
        since = (point.started or 0.0) - start
        length = max((point.ended or last) - (point.started or 0.0), 0.0)
        colour = STATES.get(point.state, GRID)
        row = workers.index(point.worker)
        axes.barh(row, length / size, 0.7, since / size, color=colour, edgecolor=SURFACE)
        if length > 0.04 * (last - start):
            light = SURFACE if point.state != "pruned" else INK
            axes.text(
                (since + length / 2) / size, row, str(point.number), ha="center", va="center", color=light, fontsize=8
            )
    handles = [matplotlib.patches.Patch(color=colour, label=state) for state, colour in STATES.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    axes.set_yticks(range(len(workers)), workers)
    axes.set_ylim(len(workers) - 0.4, -0.6)
    axes.set_xlabel(unit)
    return figure


def _places(values: Sequence[Any], log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights from 0 to 1 of a parameter's values, and the labels of its axis."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    distinct = list(dict.fromkeys(map(str, values)))
    if len(numbers) < len(values) or len(distinct) <= 4:
        ordered = [str(v) for v in sorted(set(numbers))] if len(numbers) == len(values) else sorted(distinct)
        span = max(len(ordered) - 1, 1)
        return [ordered.index(str(v)) / span for v in values], [(i / span, text) for i, text in enumerate(ordered)]
    scaled = [math.log(v) if log else float(v) for v in values]
    low, high = min(scaled), max(scaled)
    heights = [(v - low) / ((high - low) or 1.0) for v in scaled]
    return heights, [(0.0, f"{min(values):.3g}"), (1.0, f"{max(values):.3g}")]


def _limits(done: Sequence[DrawnTrial]) -> tuple[float, float]:
    values = [point.value or 0.0 for point in done]
    return min(values), max(values)


def _bar(figure: Figure, axes: Axes, norm: Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(norm, SCALE), ax=axes, pad=0.02, aspect=12)
    bar.ax.yaxis.set_major_formatter(lambda value, _: unbroken(percent(value, 0)))
    bar.outline.set_visible(False)


def _percents(axes: Axes, label: str) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: unbroken(percent(value, 0 if high - low > 0.04 else 1)))
    axes.set_ylabel(label)
    axes.grid(axis="y")


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
