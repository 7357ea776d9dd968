"""NIfTI: one slice across the third axis, turned so that the patient's front, or head, is at the top."""

from __future__ import annotations

import gzip

import numpy as np
from PIL import Image

from hpt.data.file_kinds import EXTRA, Frame, check_pixels, number_of
from hpt.data.listing import Unreadable
from hpt.data.raw import Raw


def read(data: bytes, frame: Frame) -> Raw:
    """A slice of a volume, in its own units.

    Raises:
        Unreadable: nibabel is not installed, or it is no NIfTI file.
    """
    try:
        import nibabel
    except ImportError:
        raise Unreadable(f"NIfTI needs nibabel: {EXTRA}") from None
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        image = nibabel.Nifti1Image.from_bytes(data)
        shape = tuple(int(n) for n in image.shape) + (1,) * max(0, 3 - len(image.shape))
        check_pixels(shape[0], shape[1], 1, Image.MAX_IMAGE_PIXELS)
        slices = shape[2]
        number = number_of(frame, slices)
        index = (slice(None), slice(None), number)[: len(image.shape)] + (0,) * (len(image.shape) - 3)
        values = np.asarray(image.dataobj[index])
    except Unreadable:
        raise
    except MemoryError:
        raise
    except Exception as error:  # nibabel raises a class of its own for each part of a header
        raise Unreadable(f"not a NIfTI volume: {error}") from None
    plane = np.rot90(values.astype(np.float32) if values.dtype.kind == "f" else values)
    return Raw(np.ascontiguousarray(plane)[:, :, None], "grey", pages=slices)
