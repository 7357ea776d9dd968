"""What kinds of image files there are: told by their content, their suffixes, and what it takes to read them."""

from __future__ import annotations

import importlib.util
from typing import Literal

from PIL import features

from hpt.data.listing import Unreadable

FileKind = Literal["picture", "tiff", "dicom", "array", "volume"]
Frame = Literal["first", "middle"] | int
"""Which page, frame or slice of a file is its image."""

EXTRA = "pip install 'hptctl[formats]'"
"""How to get the packages that are not installed with the program."""
LARGEST_FILE = 1 << 30
"""Bytes of a file above which it is not read: a slide or a mosaic, to be cut into tiles first."""
NEEDS = {"HEIF": "pi_heif", "NIFTI": "nibabel"}
"""The packages without which a format is not read."""
_OF_PILLOW = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Formats without which Pillow may be built."""
_SUFFIXES = {
    "JPEG": ".jpg .jpeg .jfif .jpe .jif",
    "PNG": ".png .apng",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "TIFF": ".tif .tiff .btf .tf8 .gtiff",
    "WEBP": ".webp",
    "PPM": ".ppm .pgm .pbm .pnm",
    "AVIF": ".avif .avifs",
    "JPEG2000": ".jp2 .j2k .j2c .jpf .jpx .jpc",
    "DICOM": ".dcm .dicom .dic .ima",
    "HEIF": ".heic .heif .hif",
    "NIFTI": ".nii",
}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Files of before 1993's preamble begin with the first element of group 2 or 8, explicit or implicit.
_BARE_DICOM = tuple(group + element for group in (b"\x02\0", b"\x08\0") for element in (b"\0\0", b"\x01\0", b"\x05\0"))


def readable(format: str) -> bool:
    """Whether the package that reads a format is installed."""
    if format in NEEDS:
        return importlib.util.find_spec(NEEDS[format]) is not None
    return format not in _OF_PILLOW or features.check(_OF_PILLOW[format]) is True


FORMATS = tuple(name for name in _SUFFIXES if readable(name))
"""What can be read here, besides arrays."""
ARRAYS = frozenset({".npy", ".npz"})
"""Suffixes of arrays, which are images where a folder holds no others: beside pictures they mostly are something
else."""
EXTENSIONS = ARRAYS.union(*(_SUFFIXES[name].split() for name in FORMATS))
"""The suffixes of images that can be read."""
WITH_EXTRA = frozenset().union(*(_SUFFIXES[name].split() for name in NEEDS)) - EXTENSIONS
"""The suffixes of images that could be, with the extra packages."""


def suffixes(format: str) -> list[str]:
    """The suffixes of a format, the usual one first; `.jpg` of one that is not known."""
    return _SUFFIXES.get(format, ".jpg").split()


def suffix_of(name: str) -> str:
    """The suffix of a file's name in small letters; `.nii` of `.nii.gz`."""
    lower = name.lower()
    if lower.endswith(".nii.gz"):
        return ".nii"
    last = lower.rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:] if 0 < dot < len(last) - 1 else ""  # as a path's, in a tenth of its time


def kind_of(data: bytes) -> FileKind:
    """What reads a file, by its first bytes."""
    if data[128:132] == b"DICM" or (data[:4] in _BARE_DICOM and len(data) > 132):  # a preamble may be that of a TIFF
        return "dicom"
    if data[:4] in _TIFF:
        return "tiff"
    if data[:6] == b"\x93NUMPY" or data[:4] == b"PK\x03\x04":
        return "array"
    if data[:2] == b"\x1f\x8b" or data[344:348] in (b"n+1\0", b"ni1\0"):
        return "volume"
    return "picture"


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF


def number_of(frame: Frame, pages: int) -> int:
    """The index of the page to take.

    Raises:
        Unreadable: the file has fewer pages.
    """
    number = {"first": 0, "middle": pages // 2}.get(frame, frame) if isinstance(frame, str) else frame
    assert isinstance(number, int)
    if number >= pages:
        raise Unreadable(f"has {pages} pages or frames, and number {number} is asked for (data.frame)")
    return number


def check_pixels(height: int, width: int, channels: int, limit: int | None) -> None:
    """Refuse an image whose values would fill the memory.

    Raises:
        Unreadable: it has more than `limit` pixels, or that many values of three channels.
    """
    if limit is not None and height * width * max(channels, 3) > 3 * limit:
        raise Unreadable(f"{width} x {height} pixels, above the limit of {limit / 1e6:.0f} million")
