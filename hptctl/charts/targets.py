"""Boxes and masks drawn on an image, in a colour for each class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hptctl.charts.style import font_file

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3]"""

GOLDEN = 0.618034
"""Steps of hue by which neighbours are far apart, however many there are."""
TYPE = 11
OVER = 0.55
"""The share of a class's colour over the image."""
NAMED = 0.02
"""The share of an image from which on the name of a class is written on it."""
IGNORED = 255
PAPER = (207, 207, 207)


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a class by its number."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85 if number % 2 else 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def with_boxes(
    image: Pixels,
    boxes: npt.NDArray[np.float32],
    labels: Sequence[int],
    difficult: Sequence[bool],
    classes: Sequence[str],
    side: int,
) -> Pixels:
    """[side, side, 3] the image with its boxes [k, 4] and their classes; difficult ones are thin, without a name."""
    square, scale, left, top = _square(image, side, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(square)
    font = ImageFont.truetype(font_file(), TYPE)
    corners = boxes * scale + np.array([left, top, left, top])
    for corner, label, hard in zip(corners.tolist(), labels, difficult, strict=True):
        x, y, right, bottom = (round(value) for value in corner)
        pen.rectangle((x, y, max(x, right - 1), max(y, bottom - 1)), outline=colour(label), width=1 if hard else 2)
        if not hard:
            _write(pen, font, classes[label], (x, y), colour(label), side)
    return np.asarray(square)


def with_mask(image: Pixels, mask: npt.NDArray[np.uint8], classes: Sequence[str], side: int) -> Pixels:
    """[side, side, 3] the image under the colours of its mask [H, W]; ignored pixels stay as they are."""
    table = np.zeros((256, 3), dtype=np.float32)
    table[: len(classes)] = [colour(number) for number in range(len(classes))]
    counts = (mask != IGNORED)[:, :, None]
    blended = np.where(counts, (1 - OVER) * image + OVER * table[mask], image).round().astype(np.uint8)
    square, scale, left, top = _square(blended, side, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(square)
    font = ImageFont.truetype(font_file(), TYPE)
    for number, name in enumerate(classes):
        rows, columns = np.nonzero(mask == number)
        if len(rows) < NAMED * mask.size:
            continue
        nearest = np.abs(rows - np.median(rows)) + np.abs(columns - np.median(columns))
        at = int(nearest.argmin())  # a pixel of the class, which the median need not be
        _write(pen, font, name, (left + columns[at] * scale, top + rows[at] * scale), colour(number), side)
    return np.asarray(square)


def _square(image: Pixels, side: int, how: Image.Resampling) -> tuple[Image.Image, float, int, int]:
    """The image in the middle of a grey square, and its scale, left and top there."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new("RGB", (side, side), PAPER)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square.paste(Image.fromarray(image).resize(size, how if scale < 1 else Image.Resampling.NEAREST), (left, top))
    return square, scale, left, top


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    at: tuple[float, float],
    paper: tuple[int, int, int],
    side: int,
) -> None:
    """A name on its class's colour, within the square."""
    while len(text) > 3 and font.getlength(text) > side - 4:
        text = f"{text[:-4]}..."
    x = min(max(0.0, at[0]), side - font.getlength(text) - 3)
    y = min(max(0.0, at[1] - TYPE - 3), side - TYPE - 3)
    pen.rectangle((x, y, x + font.getlength(text) + 3, y + TYPE + 2), fill=paper)
    bright = (299 * paper[0] + 587 * paper[1] + 114 * paper[2]) / 1000 > 140
    pen.text((x + 2, y), text, "black" if bright else "white", font)
