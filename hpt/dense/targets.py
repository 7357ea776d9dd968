"""What is annotated on an image: boxes with classes, or a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

DenseTask = Literal["detection", "segmentation"]
TASK_OF: dict[str, DenseTask] = {"detection": "detection", "segmentation": "segmentation"}
"""The tasks by the kinds of evaluation that need them."""
IGNORED = 255
"""The class of pixels that count neither in training nor in a figure."""
Mask = npt.NDArray[np.uint8]
"""[H, W] the number of each pixel's class, from 0; `IGNORED` for none."""


@dataclass(frozen=True)
class Boxes:
    """The objects of one image."""

    boxes: npt.NDArray[np.float32]
    """[k, 4] left, top, right, bottom in pixels, within the image; the right and bottom edges are those of the box, so
    that its width is right - left."""
    labels: npt.NDArray[np.int64]
    """[k] the number of each object's class, from 0."""
    difficult: npt.NDArray[np.bool_]
    """[k] which neither train nor count as missed: VOC's difficult ones, COCO's crowds."""

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self, height: float, width: float) -> Boxes:
        """The boxes in an image whose height and width were multiplied by these."""
        factor = np.array([width, height, width, height], dtype=np.float32)
        return Boxes(self.boxes * factor, self.labels, self.difficult)

    def areas(self) -> npt.NDArray[np.float32]:
        """[k] the area of each box in its pixels."""
        extent: Any = self.boxes[:, 2:] - self.boxes[:, :2]
        areas: npt.NDArray[np.float32] = extent.prod(axis=1)
        return areas


def no_boxes() -> Boxes:
    """Of an image without objects."""
    return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
