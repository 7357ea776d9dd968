"""DICOM: modality units, the file's own window, either photometric interpretation, colour and palettes as RGB."""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from hpt.data.file_kinds import EXTRA, Frame, check_pixels, number_of
from hpt.data.listing import Unreadable
from hpt.data.raw import Range, Raw


def read(data: bytes, frame: Frame) -> Raw:
    """One frame of a file.

    Raises:
        Unreadable: it holds no pixels, is damaged, or is packed in a way that needs a decoder that is not installed.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the file does that the standard does not allow
            dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
            return _frame(dataset, frame)
    except Unreadable:
        raise
    except InvalidDicomError:
        raise Unreadable("not a DICOM file") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged elements raise anything
        raise Unreadable(f"a damaged DICOM file: {_short(error)}") from None


def _frame(dataset: Any, frame: Frame) -> Raw:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
    from pydicom.pixels.utils import pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = getattr(getattr(dataset, "file_meta", None), "MediaStorageSOPClassUID", None)
        named = getattr(kind, "name", "") or "DICOM"
        raise Unreadable(f"holds no pixels ({named})")
    check_pixels(int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel), Image.MAX_IMAGE_PIXELS)
    pages = int(dataset.get("NumberOfFrames", 1) or 1)
    if "transfer syntax" not in str(getattr(dataset, "file_meta", {})).lower():
        _assume_syntax(dataset)
    try:
        values = pixel_array(dataset, index=number_of(frame, pages))
    except RuntimeError as error:  # no decoder of those that are installed reads it
        syntax = getattr(dataset.file_meta.TransferSyntaxUID, "name", "this transfer syntax")
        if importlib.util.find_spec("gdcm") is None:
            raise Unreadable(f"{syntax} needs a decoder: {EXTRA}") from None
        raise Unreadable(f"{syntax} is decoded by pylibjpeg-libjpeg at most (GPL): {_short(error)}") from None
    except Exception as error:  # decoders raise anything on damaged frames
        raise Unreadable(_short(error)) from None
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)[..., :3]
        return Raw(values if values.dtype.itemsize == 1 else (values >> 8).astype(np.uint8), "rgb", pages=pages)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 3:
        return Raw(values, "rgb", pages=pages, window=(0.0, 2.0 ** int(dataset.BitsStored) - 1))
    if int(dataset.BitsAllocated) == 1:
        values = values.astype(np.uint8) * 255
    values = apply_modality_lut(values, dataset)
    window = _window(dataset)
    if window is None and dataset.get("VOILUTSequence"):
        values = apply_voi_lut(values, dataset)
    if values.dtype == np.int8:
        values = values.astype(np.int16)
    if values.dtype.kind == "f":
        values = _whole(values)
    physical = str(dataset.get("Modality", "")) == "CT" and "RescaleSlope" in dataset
    inverted = interpretation == "MONOCHROME1"
    return Raw(values[:, :, None], "grey", pages=pages, window=window, inverted=inverted, physical=physical)


def _window(dataset: Any) -> Range | None:
    """The first window of a file, linear (PS3.3, C.11.2.1.2); None where there is none, or it is no line."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1 or dataset.get("VOILUTFunction", "LINEAR") == "SIGMOID":
        return None
    if dataset.get("VOILUTFunction") == "LINEAR_EXACT":
        return centre - width / 2, centre + width / 2
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _first(value: Any) -> float | None:
    try:
        return float(value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value)
    except (TypeError, ValueError, IndexError):
        return None


def _whole(values: Any) -> Any:
    """Integers where a rescaling with whole numbers gave floating point."""
    if np.isfinite(values).all() and (values == np.rint(values)).all() and np.abs(values).max(initial=0) < 1 << 31:
        return values.astype(np.int32)
    return values


def _assume_syntax(dataset: Any) -> None:
    """The transfer syntax of a file that does not say its own, as it was read."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None) is not None:
        return
    implicit, little = dataset.original_encoding
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()).rpartition("all available plugins: ")[2] or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
