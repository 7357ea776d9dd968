"""What a figure cost: the pretraining behind it, as its run measured it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from hptctl.report.frame import Cell

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
class Cost:
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


def cost(cell: Cell, frame: pd.DataFrame) -> Cost:
    """Of the pretraining behind a cell, of one stage: what its weights came from is not in it.

    Args:
        frame: all runs, indexed by run id.
    """
    sources = [id for id in frame.loc[list(cell.run_ids), "source_id"] if id in frame.index]
    runs = frame.loc[sources]
    if runs.empty:
        return Cost(cell.steps, math.nan, math.nan, "", math.nan)
    if cell.steps:
        batch = pd.to_numeric(runs["config.batch_size"])
        images = cell.steps * batch
        seconds = images / runs["images_per_second"]
    else:
        images = runs["pretraining_images"].astype(float)
        seconds = runs["seconds"].where(runs["seconds"] > 0)  # clocks of two machines may disagree
    hardware = ", ".join(sorted({str(each) for each in runs["hardware"]} - {""}))
    energy = float(runs["energy_wh"].mean())
    return Cost(cell.steps, float(images.mean()), float(seconds.mean()) / 3600, hardware, energy)
