"""A dataset whose images have boxes or masks, ready for use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpt.data.dataset import Dataset
from hpt.dense.targets import Boxes, DenseTask, Mask


@dataclass(frozen=True)
class DenseDataset:
    """Images with a target each, in splits."""

    dataset: Dataset
    """The images, as a classification has them: cached, in splits, with a fingerprint."""
    task: DenseTask
    """What is annotated."""
    classes: tuple[str, ...]
    """The names of the classes."""
    boxes: Callable[[int], Boxes]
    """The objects of an image, by its number in `dataset.images`, in the pixels of the cache; of a segmentation it
    raises."""
    mask: Callable[[int], Mask]
    """The classes of an image's pixels, likewise; of a detection it raises."""
    enlarged: Callable[[int], float]
    """The number by which an image's cached pixels are multiplied to get those of its file, at least 1."""
