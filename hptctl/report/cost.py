"""What the pretraining behind a result cost, as its run measured it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hptctl.report.results import Result, known_mean

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
    """What one pretraining cost; means over seeds."""

    steps: int
    images: float
    """Images that the model saw, counted at every step; NaN where the store does not have the pretraining."""
    hours: float
    """Hours at the speed that the run measured, without decoding and pauses; for `base`, hours by the clock."""
    hardware: str
    """What the hours were measured on."""
    energy: float
    """Watt-hours of the processors and GPUs; NaN where the hardware does not count them."""


def cost(result: Result, runs: Mapping[Any, Mapping[Any, Any]]) -> PretrainingCost:
    """The cost of the last stage of pretraining behind a result; what made its initial weights is not included.

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
        # The clocks of two machines may disagree.
        seconds = [took if took > 0 else math.nan for took in (_number(run["seconds"]) for run in found)]
    hardware = ", ".join(sorted({run["hardware"] for run in found if isinstance(run["hardware"], str)} - {""}))
    energy = known_mean([_number(run["energy_wh"]) for run in found])
    return PretrainingCost(result.steps, known_mean(images), known_mean(seconds) / 3600, hardware, energy)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
