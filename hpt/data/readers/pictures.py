"""Whatever Pillow reads, and the deeper colours of PNG, which it does not keep."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hpt.data.file_kinds import EXTRA, FORMATS, check_pixels, is_heif
from hpt.data.listing import Unreadable, damage_is_unreadable
from hpt.data.raw import Raw

_OF_PILLOW = tuple(name for name in FORMATS if name not in ("DICOM", "NIFTI", "HEIF"))
_PNG = b"\x89PNG\r\n\x1a\n"
_COLOURED = (2, 4, 6)
"""PNG's types of colour whose 16 bits Pillow reads as 8: RGB, and both that have transparency."""


def open_image(data: bytes) -> Image.Image:
    """The image, not loaded yet.

    Raises:
        Unreadable: not in a known format, damaged where it says what it holds, or too large.
    """
    known: tuple[str, ...] = _OF_PILLOW
    if is_heif(data[:12]):
        try:
            import pi_heif
        except ImportError:
            raise Unreadable(f"HEIC needs pi-heif: {EXTRA}") from None
        pi_heif.register_heif_opener()
        known = ("HEIF",)
    with damage_is_unreadable():
        try:
            image = Image.open(io.BytesIO(data), formats=known)
        except UnidentifiedImageError:
            raise Unreadable("not an image in a known format") from None
        except Image.DecompressionBombError:
            limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise Unreadable(f"more than twice the limit of {limit:.0f} million pixels") from None
    check_pixels(image.height, image.width, 3, Image.MAX_IMAGE_PIXELS)
    return image


def is_deep(data: bytes, image: Image.Image) -> bool:
    """Whether a file that is not loaded yet has more than 8 bits a channel."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if data[:8] == _PNG:
        return data[24] == 16
    if image.format == "JPEG2000":
        return _is_deep_jpeg2000(data)
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # a raw mode such as RGB;16B


def _is_deep_jpeg2000(data: bytes) -> bool:
    """Whether the first component of a code stream has more than 8 bits (ISO 15444-1, A.5.1)."""
    size = data.find(b"\xff\x4f\xff\x51")  # start of the code stream, and of its image size
    return size >= 0 and len(data) > size + 42 and (data[size + 42] & 127) + 1 > 8


def read(data: bytes) -> Raw:
    """The numbers of a picture: 8-bit RGB or grey, 16-bit integers, or floating point.

    Raises:
        Unreadable: as `open_image`, or it is damaged.
    """
    with open_image(data) as image:
        if data[:8] == _PNG and data[24] == 16 and data[25] in _COLOURED:
            return _deep_colours(data)
        if image.format == "JPEG2000" and _is_deep_jpeg2000(data):
            return _deep_colours(data)
        image.load()
        if image.mode.startswith("I") or image.mode == "F":
            return Raw(_integers(image)[:, :, None], "grey")
        if image.mode in ("1", "L", "LA"):
            return Raw(np.asarray(flat(image, "L"))[:, :, None], "grey")
        return Raw(np.asarray(flat(image, "RGB")), "rgb")


def flat(image: Image.Image, mode: str) -> Image.Image:
    """A loaded picture of 8 bits as `RGB` or `L`, its transparency laid on white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == mode else image.convert(mode)


def _integers(image: Image.Image) -> npt.NDArray[Any]:
    """The values of a grey image, as 16 bits where they fit: Pillow reads some files of 16 bits as 32."""
    values = np.asarray(image)
    if values.dtype == np.int32 and values.size and values.min() >= 0 and values.max() < 1 << 16:
        return values.astype(np.uint16)
    return values


def _deep_colours(data: bytes) -> Raw:
    """A PNG or JPEG 2000 whose colours have 16 bits."""
    import imagecodecs

    is_png = data[:8] == _PNG
    try:
        values = imagecodecs.png_decode(data) if is_png else imagecodecs.jpeg2k_decode(data)
    except Exception as error:  # a codec's own, for each of them
        raise Unreadable(f"a damaged {'PNG' if is_png else 'JPEG 2000'}: {str(error).splitlines()[0]}") from None
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] in (2, 4):
        white = np.iinfo(values.dtype).max
        alpha = values[..., -1:].astype(np.float32) / white
        values = (values[..., :-1] * alpha + white * (1 - alpha)).astype(values.dtype)
    return Raw(np.ascontiguousarray(values), "rgb" if values.shape[2] == 3 else "grey")
