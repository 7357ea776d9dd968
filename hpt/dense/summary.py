"""What a dataset's boxes or masks hold, and what is doubtful of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpt.data.splits import Indices
from hpt.dense.dataset import DenseDataset
from hpt.dense.fit import CLIPPED, DROPPED, OTHER_SIZE, RESIZED, counts_of

SMALL, LARGE = 32**2, 96**2
"""COCO's areas: an object below the first is small, and from the second on large, in pixels of its file."""
TINY = 4.0
"""An object is tiny whose shorter side has fewer pixels in the cache, which a detector hardly sees."""
SAME = 0.95
"""The intersection over union from which on two boxes of one class are the same object twice."""
SIZES = ("small", "medium", "large")
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BoxSummary:
    """The objects of a dataset; images without a split are none of it."""

    classes: tuple[str, ...]
    """The names of the classes."""
    objects: Mapping[str, Counts]
    """[C] the objects of each class, by split."""
    sizes: Mapping[str, Counts]
    """[3] the small, medium and large objects, by split."""
    difficult: Mapping[str, int]
    """The difficult objects and crowds, by split."""
    empty: Mapping[str, int]
    """The images without objects, by split."""


@dataclass(frozen=True)
class MaskSummary:
    """The pixels of a dataset; images without a split are none of it."""

    classes: tuple[str, ...]
    """The names of the classes."""
    images: Mapping[str, Counts]
    """[C] the images that have a pixel of each class, by split."""
    shares: Mapping[str, npt.NDArray[np.float64]]
    """[C] the share of the pixels that count, by split."""
    ignored: Mapping[str, float]
    """The share of all pixels that does not count, by split."""


@dataclass(frozen=True)
class Doubt:
    """One thing that is doubtful of boxes or masks."""

    what: str
    """What it is."""
    found: int
    """How often."""
    which: tuple[str, ...]
    """The names of images, or classes in splits."""


def summary(data: DenseDataset) -> BoxSummary | MaskSummary:
    """The objects or pixels of each split and class."""
    if data.task == "segmentation":
        return _of_masks(data)
    count = len(data.classes)
    objects, sizes, difficult, empty = {}, {}, {}, {}
    for split, rows in data.dataset.splits.items():
        labels, areas, hard = _objects(data, rows)
        objects[split] = np.bincount(labels, minlength=count)
        sizes[split] = np.bincount((areas >= SMALL).astype(int) + (areas >= LARGE), minlength=3)
        difficult[split] = int(hard.sum())
        empty[split] = sum(not len(data.boxes(row)) for row in rows.tolist())
    return BoxSummary(data.classes, objects, sizes, difficult, empty)


def _objects(
    data: DenseDataset, rows: Indices
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The class, area in pixels of the file, and difficulty of all objects of some images."""
    found = [(row, data.boxes(row)) for row in rows.tolist()]
    labels = [its.labels for _, its in found]
    areas = [its.areas().astype(np.float64) * data.enlarged(row) ** 2 for row, its in found]
    hard = [its.difficult for _, its in found]
    none = np.zeros(0)
    return (
        np.concatenate([none.astype(np.int64), *labels]),
        np.concatenate([none, *areas]),
        np.concatenate([none.astype(np.bool_), *hard]),
    )


def _of_masks(data: DenseDataset) -> MaskSummary:
    count = len(data.classes)
    images, shares, ignored = {}, {}, {}
    for split, rows in data.dataset.splits.items():
        pixels = data.pixels[rows]
        images[split] = (pixels[:, :count] > 0).sum(axis=0)
        total = pixels.sum(axis=0)
        shares[split] = total[:count] / max(1, total[:count].sum())
        ignored[split] = float(total[count:].sum() / max(1, total.sum()))
    return MaskSummary(data.classes, images, shares, ignored)


def doubts(data: DenseDataset) -> tuple[Doubt, ...]:
    """All that is looked at, found or not: faults of boxes or masks, repeated and tiny objects, absent classes."""
    found = _doubts_of_boxes(data) if data.task == "detection" else _doubts_of_masks(data)
    absent = []
    for split, rows in data.dataset.splits.items():
        if len(rows):
            there = np.asarray((data.dataset.labels[rows] > 0).any(axis=0))
            absent += [
                f"{name} in {split}" for name, here in zip(data.classes, there.tolist(), strict=True) if not here
            ]
    return (*found, Doubt("absent classes", len(absent), tuple(absent)))


def _doubts_of_boxes(data: DenseDataset) -> list[Doubt]:
    names = data.dataset.images.names
    counts = counts_of(data.faults)
    found = []
    for what in (*DROPPED, CLIPPED, RESIZED, OTHER_SIZE):
        which = dict.fromkeys(fault.image for fault in data.faults if fault.what == what)
        said = f"dropped: {what}" if what in DROPPED else what
        found.append(Doubt(said, counts.get(what, 0), tuple(which)))
    twice, tiny = {}, {}
    for row in np.concatenate(list(data.dataset.splits.values())).tolist():
        its = data.boxes(row)
        if not len(its):
            continue
        if many := _repeats(its.boxes, its.labels):
            twice[names[row]] = many
        short = (its.boxes[:, 2:] - its.boxes[:, :2]).min(axis=1)
        if many := int((short < TINY).sum()):
            tiny[names[row]] = many
    found.append(Doubt("the same object twice", sum(twice.values()), tuple(twice)))
    found.append(Doubt(f"tiny, below {TINY:g} px in the cache", sum(tiny.values()), tuple(tiny)))
    return found


def _repeats(boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> int:
    """The boxes that nearly equal an earlier one of their class."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alike = shared >= SAME * (areas[:, None] + areas[None, :] - shared)
    return int(np.triu(alike & (labels[:, None] == labels[None, :]), k=1).any(axis=0).sum())


def _doubts_of_masks(data: DenseDataset) -> list[Doubt]:
    names = data.dataset.images.names
    unfit = [name for name, why in data.dataset.quarantined if why.startswith("its mask ")]
    strange = np.flatnonzero(data.pixels[:, -1]).tolist()
    blank = np.flatnonzero((data.pixels.sum(axis=1) > 0) & (data.pixels[:, :-2].sum(axis=1) == 0)).tolist()
    return [
        Doubt("masks that do not fit", len(unfit), tuple(unfit)),
        Doubt("pixels of no listed class", int(data.pixels[:, -1].sum()), tuple(names[row] for row in strange)),
        Doubt("masks of ignored pixels only", len(blank), tuple(names[row] for row in blank)),
    ]
