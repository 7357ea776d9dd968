"""Boxes as annotation files have them, before they meet the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hpt.data.listing import Note
from hpt.errors import DataError

T = TypeVar("T")

FIRST = 8
"""The damaged files that a line names."""
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


class UnreadableFiles(DataError):
    """Several annotation files cannot be read."""

    def __init__(self, errors: list[DataError], total: int) -> None:
        self.reasons = tuple(str(error) for error in errors)
        """Why each cannot."""
        first = "; ".join(error.what for error in errors[:FIRST])
        more = f"; and {len(errors) - FIRST:,} more" if len(errors) > FIRST else ""
        fixes = {error.fix for error in errors}
        fix = fixes.pop() if len(fixes) == 1 else "correct them, or export them again"
        super().__init__(f"{len(errors):,} of {total:,} annotation files cannot be read: {first}{more}", fix)


def read_each(by_image: Mapping[str, str], read: Callable[[str], T]) -> dict[str, T]:
    """What is read of each image's file, all of them before a damaged one is refused, so that all are named at once.

    Raises:
        DataError: one cannot be read, or several (`UnreadableFiles`).
    """
    found: dict[str, T] = {}
    errors: list[DataError] = []
    for image, file in sorted(by_image.items()):  # so that the same are named each time
        try:
            found[image] = read(file)
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UnreadableFiles(errors, len(by_image))
    return found


def named(names: list[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
