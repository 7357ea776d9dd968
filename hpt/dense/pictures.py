"""Truth and prediction side by side, for a person to look at: boxes in the colours of their classes, masks laid
over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hpt.dense.figures import Detections
from hpt.dense.targets import IGNORED, Boxes, Mask
from hpt.files import replacing

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3]"""
SIDE, GAP = 320, 8
"""The longer side of each of the two pictures, and what lies between them, in pixels."""
SURE = 0.5
"""The score from which on a box is drawn."""
COLOURS = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990"),
    *("#dcbeff", "#9a6324", "#fffac8", "#800000", "#aaffc3", "#808000", "#ffd8b1", "#000075", "#a9a9a9", "#ffe119"),
)
"""Of the classes, in turn."""


def with_boxes(
    image: Pixels, boxes: npt.NDArray[np.float32], labels: Sequence[int], texts: Sequence[str]
) -> Image.Image:
    """An image with boxes [k, 4] in its own pixels, each with its text."""
    picture, scale = _small(image)
    draw = ImageDraw.Draw(picture)
    for box, label, text in zip(boxes, labels, texts, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        left, top, right, bottom = (float(value) * scale for value in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
        draw.text((left + 3, top + 1), text, fill=colour, stroke_width=1, stroke_fill="black")
    return picture


def with_mask(image: Pixels, mask: Mask) -> Image.Image:
    """An image under the colours of its pixels' classes; ignored ones stay as they are."""
    palette = np.array([tuple(bytes.fromhex(each[1:])) for each in COLOURS], dtype=np.float32)
    over = palette[mask % len(COLOURS)]
    counts = (mask != IGNORED)[:, :, None]
    mixed = np.where(counts, 0.45 * image + 0.55 * over, image)
    return _small(mixed.astype(np.uint8))[0]


def truth_and_boxes(image: Pixels, truth: Boxes, found: Detections, classes: Sequence[str]) -> Image.Image:
    """The objects of an image, and the boxes found with some certainty, in the image's own pixels."""
    sure = found.scores >= SURE
    said = [f"{classes[c]} {score:.2f}" for c, score in zip(found.labels[sure], found.scores[sure], strict=True)]
    left = with_boxes(image, truth.boxes, truth.labels.tolist(), [classes[c] for c in truth.labels])
    return _beside(left, with_boxes(image, found.boxes[sure], found.labels[sure].tolist(), said))


def truth_and_mask(image: Pixels, truth: Mask, found: Mask) -> Image.Image:
    """The classes of an image's pixels, and those predicted."""
    return _beside(with_mask(image, truth), with_mask(image, found))


def save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG of some 20 KiB."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        picture.save(file, "JPEG", quality=85)


def _small(image: Pixels) -> tuple[Image.Image, float]:
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR), scale


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both
