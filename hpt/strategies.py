"""The four strategies, as a table (arXiv 2103.12718v2, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StrategyName = Literal["base", "target", "hpt", "hpt-bn"]
MethodName = Literal["moco-v2", "moco-v3"]


@dataclass(frozen=True)
class Strategy:
    """One row of the table: where the backbone starts and what a run may change in it."""

    name: StrategyName
    starts_from_weights: bool
    """Whether it starts from base weights or the outcome of an earlier pretraining, instead of random weights."""
    trains: Literal["running-statistics", "everything", "batch-norm"]
    """What changes in the backbone. `running-statistics`: no gradient step at all, BatchNorm's running mean
    and variance are re-estimated. `batch-norm`: BatchNorm's affine weight and bias and its running statistics; in a
    network without BatchNorm the weights and biases of its other norms.
    The projection head always trains, where there is one."""
    summary: str


STRATEGIES: dict[str, Strategy] = {
    s.name: s
    for s in (
        Strategy("base", True, "running-statistics", "base weights, BatchNorm statistics re-estimated"),
        Strategy("target", False, "everything", "MoCo-v2 from random weights on the target images"),
        Strategy("hpt", True, "everything", "MoCo-v2 continued from base weights on the target images"),
        Strategy("hpt-bn", True, "batch-norm", "as hpt, but only BatchNorm trains in the backbone"),
    )
}
