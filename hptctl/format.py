"""How figures are written, each kind in one way: percentages, points, intervals, times, bytes, counts, energy.

A value that is missing (None or NaN) is written as nothing: the place that shows it says what its absence means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath

NO_BREAK_SPACE = "\u00a0"
MINUS = "\u2212"
USUAL_NAMES = {"model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "backbone.safetensors"}
"""Of files of weights, which their folder tells apart."""


def weights_name(text: str) -> str:
    """What weights are called: `timm:NAME` so, a file by its name, or its folder's where that is the usual one."""
    path = PurePath(text)
    return path.parent.name if path.name in USUAL_NAMES and path.parent.name else path.name


def unbroken(text: str) -> str:
    """Text for a page, where a percent sign stays on the line of its number."""
    return text.replace(" %", f"{NO_BREAK_SPACE}%")


def percent(share: float | None, digits: int = 1) -> str:
    """`0.8432` -> `84.3 %`."""
    return "" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def round_percent(share: float) -> str:
    """A share that somebody chose, with the digits that they gave: `0.1` -> `10 %`, `0.999` -> `99.9 %`."""
    return f"{100 * share:g} %"


def points(share: float) -> str:
    """A difference or a spread of shares, in points: `0.031` -> `3.1`."""
    return f"{100 * share:.1f}".replace("-", MINUS)


def signed(difference: float) -> str:
    """A difference of shares in points, with its sign: `0.031` -> `+3.1`; `0.0` has none."""
    rounded = round(100 * difference, 1)
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else ''}{abs(rounded):.1f}"


def interval(low: float, high: float) -> str:
    """An interval of a difference of shares, in points: `+1.2 to +4.9`."""
    return "" if math.isnan(low) or math.isnan(high) else f"{signed(low)} to {signed(high)}"


def above_or_below(difference: float) -> str:
    """A difference of shares in a sentence: `0.031` -> `3.1 points above`; less than it shows is `level with`."""
    size = abs(100 * difference)
    return "level with" if size < 0.05 else f"{size:.1f} points {'above' if difference > 0 else 'below'}"


def spread(std: float | None) -> str:
    """A standard deviation of shares, in points: `0.004` -> `± 0.4`."""
    return "" if std is None or math.isnan(std) else f"± {points(std)}"


def with_spread(share: float | None, std: float | None) -> str:
    """A mean of shares and their standard deviation: `84.3 % ± 0.4`, or `84.3 %` of a single one."""
    return f"{percent(share)} {spread(std)}".strip()


def times(factor: float, bound: str = "") -> str:
    """A factor: `80 ×`, `more than 10 ×`, `at most 0.5 ×`."""
    number = f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"
    return f"{bound} {number} ×".strip()


def reading(value: float) -> str:
    """A metric of any size, in about three digits: `0.0312`, `6.71`, `1,420`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def thousands(value: float) -> str:
    """A count by itself: `1280000` -> `1,280,000`."""
    return f"{value:,.0f}"


def count(many: int, one: str, several: str | None = None) -> str:
    """A count of something: `1 dataset`, `2 datasets`; `several` is its plural where that is not an s."""
    return f"{thousands(many)} {one if many == 1 else several or f'{one}s'}"


def roughly(many: float) -> str:
    """A large count, in three digits from a million on: `1280000` -> `1.28 million`, `6420` -> `6,420`."""
    if math.isnan(many):
        return ""
    return f"{many / 1e6:,.3g} million" if many >= 1e6 else thousands(many)


def compact(steps: float) -> str:
    """A length of pretraining where there is little room: `400000` -> `400k`."""
    return f"{steps / 1000:g}k" if steps >= 1000 else f"{steps:g}"


def duration(seconds: float) -> str:
    """An age, or how long something took, in one unit: `42 s`, `3 min`, `5 h`, `2 d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def hours(value: float) -> str:
    """Hours of work, never days, since that is how machines are paid: `19 min`, `1.5 h`, `3,412 h`."""
    if math.isnan(value):
        return ""
    if value < 2:
        return duration(3600 * value)
    return f"{value:,.0f} h" if value >= 20 else f"{value:.1f} h"


def when(seconds: float) -> str:
    """A moment, from seconds since 1970: `2025-10-09 08:53 UTC`."""
    return "" if math.isnan(seconds) else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def size(bytes: float) -> str:
    """Bytes in one unit: `512 B`, `34.4 MiB`, `1.5 GiB`."""
    amount = float(bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def gigabytes(megabytes: int) -> str:
    """A download as publishers give its size: `345` -> `0.3 GB`."""
    return f"{megabytes / 1000:.1f} GB"


def energy(watt_hours: float) -> str:
    """`0.31` -> `0.31 Wh`, `1530` -> `1.53 kWh`."""
    if math.isnan(watt_hours):
        return ""
    return f"{watt_hours / 1000:,.3g} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
