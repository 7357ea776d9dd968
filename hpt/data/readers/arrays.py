"""NumPy's files: [H, W], [H, W, C] or [C, H, W]."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data.file_kinds import Frame, check_pixels, number_of
from hpt.data.listing import Unreadable
from hpt.data.raw import Raw

MOST_CHANNELS = 16
"""The shortest side of an array of three that counts as its channels."""
_NAMES = ("image", "img", "x", "data", "arr_0")


def read(data: bytes, frame: Frame) -> Raw:
    """The array of a .npy file, or of a .npz file that has one, or one called `image`.

    Raises:
        Unreadable: it is none of an image's shapes, holds objects, or is damaged.
    """
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        values = found if isinstance(found, np.ndarray) else _of_archive(found)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise Unreadable(f"not an array of numbers: {error}") from None
    return of_array(values, frame)


def of_array(values: npt.NDArray[Any], frame: Frame) -> Raw:
    """An array as an image, whichever of its axes are the channels."""
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * 255
    if values.dtype.kind not in "uif":
        raise Unreadable(f"an array of {values.dtype} is no image")
    shape = values.shape
    pages = 1
    if values.ndim == 4:
        pages = shape[0]
        values = values[number_of(frame, pages)]
    if values.ndim == 3 and values.shape[2] > MOST_CHANNELS >= values.shape[0]:
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] > MOST_CHANNELS:
        pages = values.shape[0]
        values = values[number_of(frame, pages)]
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not values.size:
        raise Unreadable(f"an array of shape {' x '.join(map(str, shape)) or '()'} is no image")
    height, width, channels = values.shape
    check_pixels(height, width, channels, Image.MAX_IMAGE_PIXELS)
    if values.dtype == np.int8:
        values = values.astype(np.int16)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return Raw(values, "grey" if channels == 1 else "rgb" if channels == 3 else "none", pages=pages)


def _of_archive(found: Any) -> npt.NDArray[Any]:
    with found:
        names = list(found.files)
        chosen = names[0] if len(names) == 1 else next((name for name in _NAMES if name in names), None)
        if chosen is None:
            raise Unreadable(f"holds {len(names)} arrays ({', '.join(names[:4])}), none of them called image")
        array: npt.NDArray[Any] = found[chosen]
        return array
