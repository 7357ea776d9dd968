"""An image file's bytes to 8-bit RGB pixels.

What becomes of the less common kinds:

    greyscale, palette      RGB
    transparency            laid on white
    16-bit grey             65535 becomes 255: scaled, not clipped
    32-bit integers         as 16-bit where they fit it, else the image's own lowest..highest becomes 0..255
    floating point          0..1, else 0..255, else lowest..highest becomes 0..255; NaN is unreadable
    CMYK                    RGB without colour management; JPEGs hold it inverted, as Adobe writes it
    EXIF orientation        applied
    animation, pages        the first; `Loss` counts the others

A file is read whole or not at all: a truncated image is unreadable, and so is one above Pillow's limit of
pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

from hpt.data.listing import Unreadable

VERSION = 2
"""The version of the decoder, a part of the cache's key: raise it when the same bytes become other pixels."""
FORMATS = (
    *("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"),
    *(name for name, part in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(part)),
)
"""Pillow may be built without the last two."""
DRAFT = 2
"""A JPEG is decoded at a half, quarter or eighth where that leaves this many times the side: twice as quick
on big photographs, and with a factor of two the resize that follows hides the difference."""

PAGED = frozenset({"TIFF", "GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose further images are pages or frames; a JPEG's are previews and depth maps."""

_SUBFILE_TYPE = 254
_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Loss:
    """What of a file is not in its pixels."""

    pages: int = 0
    """The pages or frames after the first."""
    levels: int = 0
    """The number of different values of an image of more than 8 bits; 0 where it has no more."""
    kept: int = 0
    """The number of different values that it has as 8 bits."""


def decode(data: bytes, side: int) -> npt.NDArray[np.uint8]:
    """As `decode_counting`, without what is lost."""
    return decode_counting(data, side)[0]


def decode_counting(data: bytes, side: int) -> tuple[npt.NDArray[np.uint8], Loss]:
    """Pixels [3, H, W] of an image whose shorter side is reduced to `side` pixels, and never enlarged.

    The reduction is Pillow's antialiased bilinear to torchvision's sizes, so that it equals
    `transforms.Resize`. The longer side follows, however long the image is.

    Raises:
        Unreadable: not an image, damaged, or above `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if not data:
        raise Unreadable("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            pages = _pages(image) - 1
            image.draft(None, (DRAFT * side, DRAFT * side))
            is_deep = _is_deep(image)
            image.load()
            orientation = _orientation(image)  # which loading a TIFF applies
            rgb = _rgb(image)
            loss = Loss(pages, *(_levels(image, rgb) if is_deep else ()))
            small = _reduce(rgb, side)
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image in a known format") from None
    except Exception as error:  # Pillow's readers raise anything on damaged files: struct.error, KeyError, ...
        raise Unreadable(str(error) or type(error).__name__) from None
    if orientation in _ORIENTATION:
        small = small.transpose(_ORIENTATION[orientation])
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1)), loss


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


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Unreadable(f"{image.width} x {image.height} pixels, above the limit of {limit / 1e6:.0f} million")


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


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that is not loaded yet has more than 8 bits a channel."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # a raw mode such as RGB;16B


def _levels(image: Image.Image, rgb: Image.Image) -> tuple[int, int]:
    """The number of different values in a file and in its 8 bits; where Pillow gives 8 only, it may have had all."""
    kept = int(np.count_nonzero(rgb.getchannel(0).histogram()))
    if image.mode.startswith("I") or image.mode == "F":
        return len(np.unique(np.asarray(image))), kept
    return 1 << 16, kept


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF beside sound pixels
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise Unreadable("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 255:
        low, high = 0, 1 if high <= 1 else 255
    elif values.dtype.kind != "f" and low >= 0 and high <= 65535:
        low, high = 0, 65535
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(scaled).astype(np.uint8)


def _reduce(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (side * length // shorter for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
