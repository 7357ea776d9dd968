"""Boxes as annotated to boxes within an image: turned, clipped, or dropped where nothing is left of them.

The frame of an annotation is that of the image as it is shown, by its EXIF orientation, since tools for labelling show
it so; if the annotation's own width and height are those of the file as it is stored, its boxes are turned with the
image. An annotation of another size but the same shape, of an image that was resized, is scaled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpt.data.left_out import counted
from hpt.data.listing import Note
from hpt.dense.annotated_boxes import Corners, ImageBoxes, named

ROUNDING = 1.0
"""Pixels by which a box may leave its image without a word: from 0 or from 1 is a convention."""
ALIKE = 0.01
"""The relative difference of two shapes up to which an image counts as resized."""
CLIPPED, EMPTY, INVERTED, OUTSIDE, NO_NUMBER, RESIZED, OTHER_SIZE = (
    "clipped to its image",
    "of width or height 0",
    "inverted",
    "outside its image",
    "no box",
    "of a resized image, scaled",
    "of an image of another shape",
)
DROPPED = (EMPTY, INVERTED, OUTSIDE, NO_NUMBER)
"""The faults for which a box is dropped."""


@dataclass(frozen=True)
class Fault:
    """What was wrong with a box."""

    image: str
    """The image that it is on."""
    what: str
    """One of this module's kinds."""


@dataclass(frozen=True)
class Fitted:
    """The boxes of an image that are left."""

    boxes: Corners
    """[k, 4] in pixels of the image as it is shown, before any reduction."""
    kept: npt.NDArray[np.int64]
    """[k] their rows in what was annotated."""
    faults: tuple[str, ...]
    """What was wrong, for each box of which something was."""


def fit(annotated: ImageBoxes, height: int, width: int, turn: int) -> Fitted:
    """The boxes of an image that is shown with this height and width, by an EXIF orientation of 1 to 8."""
    boxes, faults = _framed(annotated, height, width, turn)
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(finite[:, None], boxes, 0)
    extent = boxes[:, 2:] - boxes[:, :2]
    limit = np.array([width, height, width, height], dtype=np.float64)
    clipped = boxes.clip(0, limit)
    left = (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf)
    kept = []
    for row in range(len(boxes)):
        if not finite[row]:
            faults.append(NO_NUMBER)
        elif extent[row].min() < 0:
            faults.append(INVERTED)
        elif extent[row].min() == 0:
            faults.append(EMPTY)
        elif left[row] <= 0:
            faults.append(OUTSIDE)
        else:
            kept.append(row)
            if np.abs(clipped[row] - boxes[row]).max() > ROUNDING:
                faults.append(CLIPPED)
    rows = np.array(kept, dtype=np.int64)
    return Fitted(clipped[rows], rows, tuple(faults))


def _framed(annotated: ImageBoxes, height: int, width: int, turn: int) -> tuple[Corners, list[str]]:
    """The boxes in the frame of the image as it is shown."""
    boxes = annotated.boxes
    if annotated.shares:
        return boxes * np.array([width, height, width, height], dtype=np.float64), []
    size = annotated.size
    if size is None or size == (height, width) or not len(boxes):
        return boxes, []
    if turn > 4 and size == (width, height):
        return turned(boxes, width, height, turn), []
    if abs(size[0] * width - size[1] * height) <= ALIKE * size[0] * width:
        factor = np.array([width / size[1], height / size[0]] * 2)
        return boxes * factor, [RESIZED] * len(boxes)
    return boxes, [OTHER_SIZE] * len(boxes)


def turned(boxes: Corners, height: int, width: int, turn: int) -> Corners:
    """Boxes of an image of this height and width as an EXIF orientation shows it."""
    left, top, right, bottom = boxes.T
    from_right, from_left = width - right, width - left
    from_bottom, from_top = height - bottom, height - top
    corners = {
        2: (from_right, top, from_left, bottom),
        3: (from_right, from_bottom, from_left, from_top),
        4: (left, from_bottom, right, from_top),
        5: (top, left, bottom, right),
        6: (from_bottom, left, from_top, right),
        7: (from_bottom, from_right, from_top, from_left),
        8: (top, from_right, bottom, from_left),
    }.get(turn, (left, top, right, bottom))
    return np.stack(corners, axis=1)


def notes_of(faults: Iterable[Fault]) -> list[Note]:
    """A line each of the boxes that were dropped, clipped, or annotated at another size."""
    by_kind: dict[str, list[str]] = {}
    for fault in faults:
        by_kind.setdefault(fault.what, []).append(fault.image)
    notes = []
    dropped = [name for what in DROPPED for name in by_kind.get(what, ())]
    if dropped:
        why = Counter({what: len(by_kind[what]) for what in DROPPED if what in by_kind})
        said = ", ".join(f"{many:,} {what}" for what, many in why.most_common())
        notes.append(Note(f"{counted(len(dropped), 'box', 'boxes')} dropped ({said}): {_names(dropped)}"))
    for what in (CLIPPED, RESIZED, OTHER_SIZE):
        if what in by_kind:
            many = counted(len(by_kind[what]), "box", "boxes")
            notes.append(Note(f"{many} {what}: {_names(by_kind[what])}", doubtful=what != CLIPPED))
    return notes


def counts_of(faults: Iterable[Fault]) -> Mapping[str, int]:
    """How often each thing was wrong."""
    return Counter(fault.what for fault in faults)


def _names(images: list[str]) -> str:
    return named(list(dict.fromkeys(images)))
