"""Boxes as annotation files have them, before they meet the images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hpt.data.listing import Note

Corners = npt.NDArray[np.float64]
"""[k, 4] left, top, right, bottom."""


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image."""

    boxes: Corners
    """In pixels of the annotation's frame, or in shares of the image; unchecked."""
    labels: npt.NDArray[np.int64]
    """[k] the numbers of their classes."""
    difficult: npt.NDArray[np.bool_]
    """[k] which are difficult, or crowds."""
    size: tuple[int, int] | None = None
    """The height and width of the image by the annotation."""
    shares: bool = False
    """Whether boxes are in shares of the image's width and height."""


@dataclass
class AnnotatedBoxes:
    """The boxes of a dataset."""

    classes: tuple[str, ...]
    """The names of the classes."""
    images: dict[str, ImageBoxes]
    """The boxes of each annotated image, which may be none, by its name below the dataset's folder."""
    notes: list[Note] = field(default_factory=list)
    """What was not plain."""


def image_boxes(
    boxes: list[tuple[float, float, float, float]],
    labels: list[int],
    difficult: list[bool] | None = None,
    size: tuple[int, int] | None = None,
    *,
    shares: bool = False,
) -> ImageBoxes:
    """From lists of numbers."""
    return ImageBoxes(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(difficult if difficult is not None else [False] * len(labels), dtype=np.bool_),
        size,
        shares,
    )


def named(names: list[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
