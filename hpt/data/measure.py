"""The pixels and classes of a dataset, measured split by split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpt.data.dataset import Dataset
from hpt.data.images import PerChannel


@dataclass(frozen=True)
class SplitMeasure:
    """What some images of a dataset are like."""

    split: str
    """The name of the split, or `train+val`: what pretraining sees."""
    images: int
    """The number of images."""
    mean: PerChannel
    """The mean of all their pixels, per channel, in [0, 1]."""
    std: PerChannel
    """The standard deviation of all their pixels, per channel, in [0, 1]."""
    height: tuple[int, int, int]
    """The smallest, median and largest height in pixels, as decoded."""
    width: tuple[int, int, int]
    """The smallest, median and largest width in pixels, as decoded."""
    classes_per_image: float | None
    """The mean number of classes that an image has; None where each has one."""


def measure(dataset: Dataset) -> list[SplitMeasure]:
    """One measure for each split that has images, and one of train and val together."""
    parts = {split: rows for split, rows in dataset.splits.items() if len(rows)}
    parts["train+val"] = np.sort(np.concatenate([dataset.splits["train"], dataset.splits["val"]]))
    found = []
    for name, rows in parts.items():
        images, labels = dataset.images.subset(rows), dataset.labels[rows]
        mean, std = images.statistics()
        several = float((labels > 0).sum(axis=1).mean()) if labels.ndim == 2 else None
        sizes = images.sizes
        found.append(SplitMeasure(name, len(rows), mean, std, _range(sizes[:, 0]), _range(sizes[:, 1]), several))
    return found


def _range(lengths: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    low, middle, high = (int(length) for length in np.percentile(lengths, (0, 50, 100)))
    return low, middle, high
