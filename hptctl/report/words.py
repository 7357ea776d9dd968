"""How the report says figures, lengths and costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from hpt.statistics import SpeedUp
from hptctl.charts.drawing import Drawing
from hptctl.charts.svg import percent
from hptctl.compare.intervals import Difference

METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "mean AUROC",
    "map": "mean average precision",
}
MISSING = "missing"
"""What stands where nobody has run something, or where the run has been deleted."""


@dataclass(frozen=True)
class Link:
    """To a run's row."""

    text: str
    run_id: str


@dataclass(frozen=True)
class Chart:
    svg: Drawing
    caption: str


def metric(name: str) -> str:
    """`top1` -> `top-1 accuracy`."""
    return METRICS.get(name, name.replace("_", " "))


def share(value: float) -> str:
    """`0.8432` -> `84.3 %`; nothing for NaN."""
    return "" if math.isnan(value) else percent(value)


def points(difference: float) -> str:
    """`0.031` -> `3.1 points above`, or `level with`."""
    size = abs(100 * difference)
    return "level with" if size < 0.05 else f"{size:.1f} points {'above' if difference > 0 else 'below'}"


def signed(value: float) -> str:
    """`-0.031` -> `−3.1`, in points, without a sign at 0.0."""
    rounded = round(100 * value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.1f}"


def interval(difference: Difference) -> str:
    """`+1.2 to +4.9`, in points; nothing where there is none."""
    return f"{signed(difference.low)} to {signed(difference.high)}" if difference.measured else ""


def hours(value: float) -> str:
    """`0.31` -> `19 min`; nothing for NaN."""
    if math.isnan(value):
        return ""
    if value >= 2:
        return f"{value:,.0f} h" if value >= 20 else f"{value:.1f} h"
    return f"{60 * value:.0f} min" if value >= 1 / 30 else f"{3600 * value:.0f} s"


def energy(watt_hours: float) -> str:
    """`0.31` -> `0.31 Wh`, `1530` -> `1.53 kWh`; nothing for NaN."""
    if math.isnan(watt_hours):
        return ""
    return f"{watt_hours / 1000:,.3g} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"


def images(number: float) -> str:
    """`1280000` -> `1.28 million`, `6420` -> `6,420`; nothing for NaN."""
    if math.isnan(number):
        return ""
    return f"{number / 1e6:,.3g} million" if number >= 1e6 else f"{number:,.0f}"


def times(found: SpeedUp) -> str:
    """`80 x`, `more than 10 x`, `at most 0.5 x`."""
    number = f"{found.factor:,.0f}" if found.factor >= 10 else f"{found.factor:.2g}"
    return f"{found.bound} {number} ×".strip()


def when(seconds: float) -> str:
    """In UTC; nothing for NaN."""
    return "" if math.isnan(seconds) else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 dataset`, `2 datasets`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """`a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
