"""What a figure cost: the pretraining behind it, as its run measured it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hptctl.report.results import Result

OF_A_COST = (
    "source_id",
    "config.batch_size",
    "images_per_second",
    "pretraining_images",
    "seconds",
    "hardware",
    "energy_wh",
)
"""The columns that a cost is computed from."""


@dataclass(frozen=True)
class PretrainingCost:
    """Of one pretraining, the mean over seeds."""

    steps: int
    images: float
    """Seen by the model, those of every step counted; NaN where the pretraining is not at hand."""
    hours: float
    """At the speed that the run measured on its way, without decoding and pauses; of `base` by the clock."""
    hardware: str
    """What the hours are of."""
    energy: float
    """Wh of the processors and GPUs; NaN where the hardware does not tell."""


def cost(result: Result, runs: Mapping[Any, Mapping[Any, Any]]) -> PretrainingCost:
    """Of the pretraining behind a result, of one stage: what its weights came from is not in it.

    Args:
        runs: `OF_A_COST` of all runs, by run id.
    """
    found = [runs[source] for id in result.run_ids if (source := runs[id]["source_id"]) in runs]
    if result.steps:
        images = [result.steps * _number(run["config.batch_size"]) for run in found]
        speeds = [_number(run["images_per_second"]) for run in found]
        seconds = [seen / speed if speed > 0 else math.nan for seen, speed in zip(images, speeds, strict=True)]
    else:
        images = [_number(run["pretraining_images"]) for run in found]
        # Clocks of two machines may disagree.
        seconds = [took if took > 0 else math.nan for took in (_number(run["seconds"]) for run in found)]
    hardware = ", ".join(sorted({run["hardware"] for run in found if isinstance(run["hardware"], str)} - {""}))
    energy = _mean([_number(run["energy_wh"]) for run in found])
    return PretrainingCost(result.steps, _mean(images), _mean(seconds) / 3600, hardware, energy)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
