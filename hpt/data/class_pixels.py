"""Masks: files whose pixels are the numbers of classes, as an index, a palette, or colours.

Nothing is interpolated: a reduction takes the nearest pixel, and yields the sizes that `decode` gives an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data import decode as images
from hpt.data.file_kinds import kind_of
from hpt.data.listing import Unreadable, damage_is_unreadable
from hpt.data.pixel_format import PixelFormat
from hpt.data.readers import pictures, read

Occurring = npt.NDArray[np.int64]
"""[k, 2] the numbers of classes in a mask, and how many of its pixels have each."""
NONE_OCCUR = np.zeros((0, 3), dtype=np.int64)
UNKNOWN = 255
"""The number of a pixel whose colour is no class's."""


def decode(data: bytes, side: int, form: PixelFormat) -> tuple[images.Pixels, images.Loss, Occurring]:
    """uint8 [1, H, W] the numbers of classes, the shorter side reduced to `side` pixels; and which occur in the file.

    Raises:
        Unreadable: not an image, damaged, or its pixels are no numbers of classes.
    """
    if not data:
        raise Unreadable("the file is empty")
    with damage_is_unreadable():
        numbers, turn = _numbers(data, form)
    counts = np.bincount(numbers.ravel(), minlength=256)
    there = np.flatnonzero(counts)
    height, width = numbers.shape
    shorter = min(height, width)
    if shorter > side:
        size = (side * width // shorter, side * height // shorter)
        numbers = np.asarray(Image.fromarray(numbers).resize(size, Image.Resampling.NEAREST))
    pixels = images.turned(numbers, turn)[None]
    loss = images.Loss(size=(height, width), turn=turn, mode="mask")
    return pixels, loss, np.stack([there, counts[there]], axis=1)


def _numbers(data: bytes, form: PixelFormat) -> tuple[npt.NDArray[np.uint8], int]:
    """[H, W] the number of each pixel, and the EXIF orientation that the file has itself."""
    if kind_of(data) != "picture":
        try:
            with pictures.open_image(data) as image:  # a TIFF that Pillow reads keeps its palette
                return _of_picture(image, form), 1
        except Unreadable:
            return _as_index(read(data).values), 1
    with pictures.open_image(data) as image:
        return _of_picture(image, form), images.orientation_of(image)


def _of_picture(image: Image.Image, form: PixelFormat) -> npt.NDArray[np.uint8]:
    image.load()
    if form.classes_by == "colour" or (form.classes_by == "either" and image.mode in ("RGB", "RGBA", "CMYK")):
        return _by_colour(np.asarray(image.convert("RGB")), form.class_colours)
    if image.mode in ("P", "L", "1", "I", "I;16", "I;16B", "I;16L", "F"):
        return _as_index(np.asarray(image)[:, :, None])
    if image.mode in ("LA", "PA", "La"):
        return _as_index(np.asarray(image)[:, :, :1])
    return _as_index(np.asarray(image.convert("RGB")))


def _as_index(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The numbers [H, W] of values [H, W, C] that are the same in all channels."""
    if values.shape[2] > 1 and (values != values[:, :, :1]).any():
        first = values.reshape(-1, values.shape[2])
        odd = first[(first != first[:, :1]).any(axis=1)][0]
        raise Unreadable(f"holds colours, such as {tuple(odd.tolist())}, and no list says which class each stands for")
    values = values[:, :, 0]
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise Unreadable("holds fractions, which are no numbers of classes")
    if values.dtype != bool and (values.min() < 0 or values.max() > 255):
        raise Unreadable(f"holds numbers from {values.min()} to {values.max()}, and classes are 0 to 254")
    return values.astype(np.uint8)


def _by_colour(values: npt.NDArray[np.uint8], colours: tuple[tuple[int, int], ...]) -> npt.NDArray[np.uint8]:
    red, green, blue = np.moveaxis(values.astype(np.uint32), -1, 0)
    packed = red << 16 | green << 8 | blue
    known = np.array(sorted(colours), dtype=np.uint32)
    at = np.searchsorted(known[:, 0], packed).clip(max=len(known) - 1)
    numbers: npt.NDArray[np.uint8] = np.where(known[at, 0] == packed, known[at, 1], UNKNOWN).astype(np.uint8)
    return numbers
