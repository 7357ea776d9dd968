"""How many images of a dataset are there twice, by what the cache keeps of them: nothing is read again.

`hpt.data.check` reads every image, compares larger thumbnails, and names the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpt.callbacks import Progress
from hpt.data import thumbnails
from hpt.data.dataset import Dataset
from hpt.data.splits import Indices

MOST = 30_000
"""Of more images than these near copies are not looked for: it takes a minute, and grows with the square."""


@dataclass(frozen=True)
class Copies:
    """Images that are there already."""

    images: int
    """The number of images, in all splits."""
    equal: int
    """Files that are equal, byte for byte, to an earlier one."""
    near: int | None
    """Others that are certain to show an earlier one encoded again or resized; None where that was not looked for."""
    across: int
    """Images of val that are such copies of train's, and of test that are of train's or val's."""


def copies(dataset: Dataset, progress: Progress | None = None) -> Copies:
    """Count the copies in the splits of a dataset."""
    rows = np.concatenate([dataset.splits[split] for split in dataset.splits])
    images = dataset.images.subset(rows)
    _, first = np.unique(images.digests, return_index=True)
    again = np.ones(len(rows), dtype=np.bool_)
    again[first] = False
    thorough = len(rows) <= MOST
    near = None
    if thorough:
        alike = thumbnails.repeated(images.thumbnails, progress).certain
        near = int(np.count_nonzero(~again[alike]))
    train, val, test = (dataset.splits[split] for split in ("train", "val", "test"))
    across = _among(dataset, val, train, thorough) + _among(dataset, test, np.concatenate([train, val]), thorough)
    return Copies(len(rows), int(again.sum()), near, across)


def _among(dataset: Dataset, some: Indices, others: Indices, thorough: bool) -> int:
    """How many of some images are among others."""
    if not len(some) or not len(others):
        return 0
    mine, theirs = dataset.images.subset(some), dataset.images.subset(others)
    found = np.isin(mine.digests, theirs.digests)
    if thorough:
        found[thumbnails.find(mine.thumbnails, theirs.thumbnails).certain] = True
    return int(found.sum())
