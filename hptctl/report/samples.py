"""A few images of a dataset, small enough to be part of the page, to show what its classes look like.

They are included only on request, since whoever gets the page gets the images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data.decode import decode
from hpt.data.listing import Listing, Unreadable, class_names
from hpt.data.names import absence_of, find, list_images, place_of
from hpt.data.pixel_format import PixelFormat, Unmeasured
from hpt.data.remote import Address
from hpt.errors import HptError

PICTURES = "pictures"
"""The folder of a run in which a dense evaluation leaves some."""
SIDE = 96
"""Pixels of the longer side: 2 to 4 KiB each."""


@dataclass(frozen=True)
class Sample:
    """One image of the page."""

    src: str
    """The image as a data URI."""
    width: int
    height: int
    """Width and height as shown, pixels; small images are enlarged."""
    caption: str
    """The class of the image, or its classes."""


def samples_of(dataset: str, count: int) -> tuple[Sample, ...]:
    """Up to `count` images outside the test split, one of each class before a second of any; none where the dataset is
    not on this machine. `dataset` is what `--dataset` takes."""
    try:
        found = find(dataset)
        if absence_of(found) is not None or isinstance(place_of(found), Address):  # a page downloads nothing
            return ()
        listing = list_images(found)
    except (HptError, OSError):
        return ()
    out: list[Sample] = []
    with listing.source.open() as read:
        for i in _in_turn(listing):
            if len(out) == count:
                break
            with suppress(Unreadable):
                out.append(_small(read(listing.names[i]), class_names(listing, i) or "unlabelled"))
    return tuple(sorted(out, key=lambda sample: sample.caption))


def of_file(path: Path, caption: str) -> Sample:
    """A picture that a run drew, as it is."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    return Sample(f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", width, height, caption)


def _in_turn(listing: Listing) -> Sequence[int]:
    rows = np.array([i for i, split in enumerate(listing.splits) if split != "test"], dtype=np.int64)
    if listing.labels.ndim == 2:
        first = np.where(listing.labels.max(axis=1) > 0, listing.labels.argmax(axis=1), -1)[rows]
    else:
        first = listing.labels[rows]
    turn = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(first):
        turn[first == label] = np.arange((first == label).sum())
    return [int(i) for i in rows[np.lexsort((first, turn))]]


def _shown(content: bytes) -> npt.NDArray[np.uint8]:
    """[3, H, W] as training sees 8 bits; of other numbers the range that the image uses, and the first three
    channels."""
    try:
        pixels: npt.NDArray[np.uint8] = decode(content, SIDE, PixelFormat(scaling="measured"))
    except Unmeasured:
        pixels = decode(content, SIDE, PixelFormat(scaling="image"))
    except Unreadable:
        pixels = decode(content, SIDE, PixelFormat(scaling="image", picks=(0, 1, 2), colours="none"))
    return pixels


def _small(content: bytes, caption: str) -> Sample:
    pixels = _shown(content)
    small = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    width, height = (round(side * SIDE / max(small.size)) for side in small.size)
    return Sample(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", width, height, caption)
