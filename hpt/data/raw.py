"""The numbers that an image file holds, of which a dataset's pixel format (`hpt.data.pixel_format`) makes pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Colours = Literal["rgb", "grey", "none"]
"""What the channels are: red, green and blue, or one grey, or anything else."""
Depth = Literal["8-bit", "integer", "float"]
"""The kind of numbers of a file: `integer` has more than 8 bits. The numbers of one kind are comparable within a
dataset, those of two kinds are not."""
Range = tuple[float, float]


@dataclass(frozen=True)
class Raw:
    """An image as its file has it: nothing scaled, reduced or converted."""

    values: npt.NDArray[Any]
    """[H, W, C] integers, or floating point; in the file's units where it says how to get them (DICOM's rescale slope
    and intercept, GeoTIFF's scale and offset)."""
    colours: Colours
    """What the channels are."""
    pages: int = 1
    """The number of pages or frames in the file; `values` are of one."""
    names: tuple[str, ...] = ()
    """The names of the channels, where the file has them."""
    window: Range | None = None
    """The lowest and highest value to show, where the file says so (DICOM's window)."""
    inverted: bool = False
    """Whether the lowest value is white (DICOM's MONOCHROME1, TIFF's white is zero)."""
    physical: bool = False
    """Whether equal values mean the same in every file, as Hounsfield units do."""
    absent: npt.NDArray[np.bool_] | None = None
    """[H, W, C] which values the file says are none (GeoTIFF's nodata)."""

    @property
    def depth(self) -> Depth:
        """The kind of the values."""
        return depth_of(self.values.dtype)


def depth_of(dtype: np.dtype[Any]) -> Depth:
    """The kind of numbers of a type."""
    if dtype.kind == "f":
        return "float"
    return "8-bit" if dtype.itemsize == 1 else "integer"
