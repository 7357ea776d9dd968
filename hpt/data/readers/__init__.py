"""The numbers in an image file of any kind, told by its content.

    pictures   whatever Pillow reads: PNG, JPEG, WebP, AVIF, JPEG 2000, ..., HEIC with an extra
    tiff       TIFF, BigTIFF and GeoTIFF by tifffile: any depth, any number of channels, tiles, planes, pages
    dicom      DICOM by pydicom
    arrays     NumPy's .npy and .npz
    volumes    NIfTI: one slice, with an extra

The extra packages are those of `pip install 'hptctl[formats]'`.
"""

from __future__ import annotations

from hpt.data.file_kinds import Frame, kind_of
from hpt.data.raw import Raw


def read(data: bytes, *, frame: Frame = "first", pages_are_channels: bool = False) -> Raw:
    """The numbers of an image.

    Args:
        frame: the page, frame or slice that is taken.
        pages_are_channels: whether the pages of a TIFF, of one size, are its channels.

    Raises:
        Unreadable: not an image, damaged, too large, or of a kind that needs a package that is not installed.
    """
    kind = kind_of(data)
    if kind == "tiff":
        from hpt.data.readers import tiff

        return tiff.read(data, frame, pages_are_channels)
    if kind == "dicom":
        from hpt.data.readers import dicom

        return dicom.read(data, frame)
    if kind == "array":
        from hpt.data.readers import arrays

        return arrays.read(data, frame)
    if kind == "volume":
        from hpt.data.readers import volumes

        return volumes.read(data, frame)
    from hpt.data.readers import pictures

    return pictures.read(data)
