"""An image file's bytes to pixels, as a dataset's pixel format (`hpt.data.pixel_format`) says: 8-bit RGB by default.

What becomes of the less common kinds:

    greyscale, palette      RGB, or one channel
    transparency            laid on white
    more than 8 bits        the format's window becomes 0 to 255, or to 65535 where it keeps 16 bits
    without a window        65535 becomes white: scaled, not clipped; 32-bit integers as 16-bit where they fit it, else
                            the image's own lowest..highest; floating point 0..1, else 0..255, else lowest..highest
    values not finite       unreadable, unless the file says that they are none
    CMYK                    RGB without colour management; JPEGs hold it inverted, as Adobe writes it
    EXIF orientation        applied
    animation, pages        the first, or the format's `frame`; `Loss` counts the others

A file is read whole or not at all: a truncated image is unreadable, and so is one above Pillow's limit of
pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from hpt.data.file_kinds import FileKind, kind_of, number_of
from hpt.data.listing import Unreadable, damage_is_unreadable
from hpt.data.pixel_format import PLAIN, PixelFormat, Unmeasured
from hpt.data.raw import Raw
from hpt.data.readers import pictures, read

VERSION = 3
"""The version of the decoder, a part of the cache's key: raise it when the same bytes become other pixels."""
DRAFT = 2
"""A JPEG is decoded at a half, quarter or eighth where that leaves this many times the side: twice as quick
on big photographs, and with a factor of two the resize that follows hides the difference."""
PAGED = frozenset({"TIFF", "GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose further images are pages or frames; a JPEG's are previews and depth maps."""
COUNTED = 1 << 20
"""The values of an image of which the different ones are counted."""

_SUBFILE_TYPE, _EXTRA_SAMPLES = 254, 338
_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = npt.NDArray[Any]
"""uint8 or uint16 [C, H, W]."""


@dataclass(frozen=True)
class Loss:
    """What of a file is not in its pixels."""

    pages: int = 0
    """The pages or frames that were not taken."""
    levels: int = 0
    """The number of different values of an image of more than 8 bits; 0 where it has no more."""
    kept: int = 0
    """The number of different values that it has as a pixel."""
    size: tuple[int, int] = field(default=(0, 0), compare=False)
    """The height and width of the file's image, as it is stored."""
    turn: int = field(default=1, compare=False)
    """The EXIF orientation that was applied, 1 to 8; 1: none. From 5 on height and width change places."""
    mode: str = field(default="", compare=False)
    """Pillow's name of its kind of pixels, such as `RGB`, or the type of its numbers, such as `5 x uint16`."""


@dataclass(frozen=True)
class Decoded:
    """An image of a file."""

    pixels: Pixels
    loss: Loss
    picture: Image.Image | None = None
    """The pixels as Pillow has them, in mode RGB or L, before they became 16 bits; None where it has not read them."""


def decode(data: bytes, side: int, form: PixelFormat = PLAIN) -> Pixels:
    """As `decode_whole`, the pixels alone."""
    return decode_whole(data, side, form).pixels


def decode_counting(data: bytes, side: int, form: PixelFormat = PLAIN) -> tuple[Pixels, Loss]:
    """As `decode_whole`, the pixels and what is lost."""
    decoded = decode_whole(data, side, form)
    return decoded.pixels, decoded.loss


def decode_whole(data: bytes, side: int, form: PixelFormat = PLAIN) -> Decoded:
    """Pixels [C, H, W] of an image whose shorter side is reduced to `side` pixels, and never enlarged.

    The reduction is Pillow's antialiased bilinear to torchvision's sizes, so that it equals
    `transforms.Resize`. The longer side follows, however long the image is.

    Raises:
        Unreadable: not an image, damaged, or above `PIL.Image.MAX_IMAGE_PIXELS`. Unmeasured: the format knows no window
            for such an image.
    """
    if not data:
        raise Unreadable("the file is empty")
    with damage_is_unreadable(Unmeasured):
        kind = kind_of(data)
        if kind in ("picture", "tiff") and form.keeps_eight():
            picture = _picture(data, kind, side, form)
            if picture is not None:
                return picture
        raw = read(data, frame=form.frame, pages_are_channels=form.pages_are_channels)
        return Decoded(*_developed(raw, side, form))


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings in all threads; what matters of them, `decode` raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def ppm(pixels: npt.NDArray[np.uint8]) -> bytes:
    """RGB pixels [H, W, 3] as the bytes of an image file."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Pixels [H, W] as an EXIF orientation shows them."""
    flipped = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T, 6: pixels.T[:, ::-1]}
    more = {7: pixels.T[::-1, ::-1], 8: pixels.T[::-1]}
    return np.ascontiguousarray((flipped | more).get(orientation, pixels))


def _picture(data: bytes, kind: FileKind, side: int, form: PixelFormat) -> Decoded | None:
    """An image that Pillow keeps whole: colours or grey of 8 bits. None for any other."""
    try:
        image = pictures.open_image(data)
    except Unreadable:
        if kind == "tiff":
            return None
        raise
    with image:
        mode, size = image.mode, (image.height, image.width)
        turn = orientation_of(image) if kind == "tiff" else 1
        if pictures.is_deep(data, image) or (kind == "tiff" and not _is_colour(image)):
            return None
        pages = _pages(image)
        if (number := number_of(form.frame, pages)) > 0:
            image.seek(number)
        image.draft(None, (DRAFT * side, DRAFT * side))
        image.load()
        orientation = orientation_of(image)  # which loading a TIFF applies
        small = _reduce(pictures.flat(image, "RGB" if form.channels == 3 else "L"), side)
    if orientation in _ORIENTATION:
        small = small.transpose(_ORIENTATION[orientation])
    pixels = _planes(small)
    if form.bits == 16:
        pixels = pixels.astype(np.uint16) * 257
    turn = orientation if orientation in _ORIENTATION else turn
    return Decoded(pixels, Loss(pages - 1, size=size, turn=turn, mode=mode), small)


def _planes(image: Image.Image) -> npt.NDArray[Any]:
    """[C, H, W] of a picture in mode RGB or L: a channel at a time, which takes half the time of an array [H, W, C]
    that is transposed."""
    bands = image.getbands()
    planes = np.empty((len(bands), image.height, image.width), dtype=np.uint8)
    for plane, band in zip(planes, bands, strict=True):
        plane.reshape(-1)[:] = np.frombuffer(image.tobytes("raw", band), dtype=np.uint8)
    return planes


def _developed(raw: Raw, side: int, form: PixelFormat) -> tuple[Pixels, Loss]:
    """The pixels of an image's numbers."""
    shares = form.shares(raw)
    height, width, channels = shares.shape
    shorter = min(height, width)
    planes = [shares[:, :, channel] for channel in range(channels)]
    if shorter > side:
        size = (side * width // shorter, side * height // shorter)
        planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in planes]
    pixels = np.rint(np.stack(planes) * form.white).astype(form.dtype)
    if channels != form.channels:  # grey as RGB
        pixels = np.repeat(pixels, form.channels, axis=0)
    many = raw.values.shape[2]
    mode = f"{many} x {raw.values.dtype}" if many > 1 else str(raw.values.dtype)
    loss = Loss(raw.pages - 1, *_levels(raw, shares, form), size=(height, width), mode=mode)
    return np.ascontiguousarray(pixels), loss


def _levels(raw: Raw, shares: npt.NDArray[np.float32], form: PixelFormat) -> tuple[int, int]:
    """The number of different values in a file, and as pixels, before any reduction; 0 for a file of 8 bits."""
    if raw.depth == "8-bit":
        return 0, 0
    step = -(-shares[:, :, 0].size // COUNTED)
    values, kept = form.select(raw)[:, :, 0].ravel()[::step], shares[:, :, 0].ravel()[::step]
    return len(np.unique(values)), len(np.unique(np.rint(kept * form.white)))


def _pages(image: Image.Image) -> int:
    """The number of pages or frames; a smaller copy of the first, as a pyramid has them, is none of them."""
    if image.format not in PAGED:
        return 1
    pages = int(getattr(image, "n_frames", 1))
    if pages > 1 and image.format == "TIFF":
        image.seek(1)
        tags = getattr(image, "tag_v2", {})
        if int(tags.get(_SUBFILE_TYPE, 0)) & 1:
            pages = 1
        image.seek(0)
    return pages


def _is_colour(image: Image.Image) -> bool:
    """Whether a TIFF holds colours or grey, and nothing besides but transparency."""
    extra = getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES, ())
    return all(int(each) in (1, 2) for each in (extra if isinstance(extra, tuple) else (extra,)))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF beside sound pixels
        return 1


def _reduce(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (side * length // shorter for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
