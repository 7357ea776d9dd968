"""The intervals of `hptctl compare` and of the report: an interval for the difference between any two models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hpt.metrics import Labels
from hpt.statistics import Interval, Model, difference, resample


def pairwise(
    metric: str, models: Sequence[Model], labels: Labels, *, resamples: int, seed: int = 0, level: float
) -> dict[tuple[int, int], Interval]:
    """The interval of the difference between every two models, by their places: (0, 1), (0, 2), ...

    All models are resampled together, so that k of them cost k times what one costs. An interval holds for its pair
    alone: of many pairs some will not cover the truth.

    Args:
        labels: [n], or [n, C] of a multi-label set.

    Raises:
        ConfigError: the labels do not have that metric. DataError: a single image. HptError: the labels leave it
            undefined, or scores are NaN.
    """
    resampled = resample(metric, models, labels, resamples=resamples, seed=seed)
    return {(a, b): difference(resampled[a], resampled[b], level=level) for a, b in combinations(range(len(models)), 2)}
