"""TIFF, BigTIFF and GeoTIFF: any depth and number of channels, tiles, strips, planes and pages."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data.file_kinds import Frame, check_pixels, number_of
from hpt.data.listing import Unreadable
from hpt.data.raw import Colours, Raw

MOST_CHANNELS = 16
"""The number of planes up to which an axis without a name counts as channels, where there are more rows and columns."""
_ITEM = re.compile(r'<Item name="([^"]+)"([^>]*)>([^<]*)</Item>')
_SAMPLE = re.compile(r'sample="(\d+)"')


logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of a damaged file is raised


def read(data: bytes, frame: Frame, pages_are_channels: bool) -> Raw:
    """The first image of a file, or the page `frame`.

    Raises:
        Unreadable: it is damaged, or too large.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return _read(file, frame, pages_are_channels)
    except Unreadable:
        raise
    except Exception as error:  # tifffile raises anything on damaged files
        text = " ".join(str(error).split())
        raise Unreadable(f"a damaged TIFF: {text[:120] or type(error).__name__}") from None


def _read(file: Any, frame: Frame, pages_are_channels: bool) -> Raw:
    series = file.series[0]
    axes, shape = series.axes, tuple(int(n) for n in series.shape)
    by_axis = dict(zip(axes, shape, strict=True))
    page = series.keyframe
    _check_whole(file, series)
    if axes == "QYX" and min(shape[:2]) > MOST_CHANNELS >= shape[2]:  # written from [H, W, C] without a word of it
        check_pixels(shape[0], shape[1], shape[2], Image.MAX_IMAGE_PIXELS)
        return _raw(file, page, series.asarray(), "none")
    extent = {"S": by_axis.get("S", 1), "C": by_axis.get("C", 1)}
    height, width = by_axis.get("Y", 1), by_axis.get("X", 1)
    stacked = [axis for axis in axes if axis not in "YXSC"]
    pages = int(np.prod([by_axis[axis] for axis in stacked], dtype=np.int64)) if stacked else 1
    others = sum(1 for each in file.series[1:] if each.shape[-2:] == series.shape[-2:] and not _is_reduced(each))
    check_pixels(height, width, extent["S"] * extent["C"], Image.MAX_IMAGE_PIXELS)
    if pages_are_channels and pages == 1 and others and extent == {"S": 1, "C": 1}:
        planes = [each.asarray() for each in file.series if each.shape == series.shape and not _is_reduced(each)]
        return _raw(file, page, np.stack(planes, axis=-1), "none")
    if pages_are_channels and pages > 1 and extent == {"S": 1, "C": 1}:
        check_pixels(height, width, pages, Image.MAX_IMAGE_PIXELS)
        return _raw(file, page, np.moveaxis(series.asarray().reshape(pages, height, width), 0, 2), "none")
    if pages > 1 and extent["C"] == 1:
        number = number_of(frame, pages)
        values = np.squeeze(file.pages[number].asarray()) if len(file.pages) == pages else _plane(series, number, pages)
        axes = "".join(axis for axis in axes if axis in "YXS")
        if values.ndim == 2:
            axes = "YX"
    else:
        values, number = series.asarray(), 0
        for axis in stacked:
            at = axes.index(axis)
            values = np.take(values, 0, axis=at)
            axes = axes.replace(axis, "", 1)
    values = _channels_last(values, axes)
    colours = _colours(page, values.shape[2])
    if values.shape[2] == 4 and colours == "rgb":
        values = _on_white(values)
    if values.shape[2] == 2 and _alphas(page):
        values, colours = values[..., :1], "grey"
    return _raw(file, page, values, colours, pages=pages + others)


def _check_whole(file: Any, series: Any) -> None:
    """Refuse a file that ends before its pixels do: they would be read as zeros."""
    size = file.filehandle.size
    for page in series.pages:
        if page is None:
            continue
        ends = (at + length for at, length in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > size:
            raise Unreadable("the file is truncated")


def _raw(file: Any, page: Any, values: npt.NDArray[Any], colours: Colours, pages: int = 1) -> Raw:
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * 255
    if values.dtype.kind not in "uif":
        raise Unreadable(f"a TIFF of {values.dtype} is no image")
    if values.dtype == np.int8:
        values = values.astype(np.int16)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.itemsize == 1 and page.bitspersample < 8 and page.photometric != 3:
        values = (values.astype(np.float32) * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
    absent = None
    nodata = getattr(page, "nodata", 0)
    if 42113 in page.tags:  # GDAL_NODATA
        absent = np.isnan(values) if values.dtype.kind == "f" and np.isnan(nodata) else values == nodata
    names, values = _described(file, page, values)
    inverted = int(page.photometric) == 0
    return Raw(values, colours, pages=pages, names=names, inverted=inverted, absent=absent)


def _described(file: Any, page: Any, values: npt.NDArray[Any]) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
    """The channels' names, and the values in their units, as GDAL writes both."""
    count = values.shape[2]
    names, scale, offset = [""] * count, np.ones(count), np.zeros(count)
    tag = page.tags.get(42112)  # GDAL_METADATA
    for name, attributes, text in _ITEM.findall(str(tag.value)) if tag is not None else ():
        sample = _SAMPLE.search(attributes)
        at = int(sample[1]) if sample else 0
        if at >= count:
            continue
        if name == "DESCRIPTION":
            names[at] = text.strip()
        elif name in ("SCALE", "OFFSET"):
            (scale if name == "SCALE" else offset)[at] = float(text)
    if (scale != 1).any() or (offset != 0).any():
        values = (values * scale + offset).astype(np.float32)
    if not any(names):
        found = (file.imagej_metadata or {}).get("Labels") if file.is_imagej else None
        names = [str(each) for each in found] if found and len(found) == count else []
    return tuple(names), values


def _channels_last(values: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """[Y, X, C S] of the axes Y, X, S and C in any order."""
    order = [axes.index("Y"), axes.index("X"), *(at for at, axis in enumerate(axes) if axis in "CS")]
    values = values.transpose(order)
    return values.reshape(*values.shape[:2], -1)


def _colours(page: Any, channels: int) -> Colours:
    photometric = int(page.photometric)
    if channels == 1:
        return "grey"
    is_colour = photometric in (2, 6)  # RGB, YCbCr
    if channels == 3 and is_colour:
        return "rgb"
    return "rgb" if channels == 4 and is_colour and _alphas(page) else "none"


def _alphas(page: Any) -> bool:
    """Whether the last channel is transparency."""
    extra = [int(each) for each in page.extrasamples]
    return bool(extra) and extra[-1] in (1, 2)


def _on_white(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Colours [H, W, 4] laid on white: [H, W, 3]."""
    top = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    alpha = values[..., 3:].astype(np.float32) / top
    mixed: npt.NDArray[Any] = (values[..., :3] * alpha + top * (1 - alpha)).astype(values.dtype)
    return mixed


def _plane(series: Any, number: int, pages: int) -> npt.NDArray[Any]:
    values = series.asarray()
    plane: npt.NDArray[Any] = values.reshape(pages, *values.shape[-2:])[number]
    return plane


def _is_reduced(series: Any) -> bool:
    """Whether it is a smaller copy, as a pyramid has them."""
    return bool(getattr(series.keyframe, "is_reduced", False))
