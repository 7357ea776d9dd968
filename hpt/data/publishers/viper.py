"""VIPER (Playing for Benchmarks): frames of video sequences, and the class of each of their pixels.

    train/img/001/001_00010.jpg, val/...
    train/cls/001/001_00010.png     numbers of classes, as a palette or grey image, or in the publisher's colours

Layout: https://playing-for-benchmarks.org/download/; numbers and colours from its classes.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged

CLASSES: dict[int, tuple[str, int]] = {
    2: ("sky", 0x4682B4),
    3: ("road", 0x804080),
    4: ("sidewalk", 0xF423E8),
    6: ("terrain", 0x98FB98),
    7: ("tree", 0x57B623),
    8: ("vegetation", 0x238E23),
    9: ("building", 0x464646),
    10: ("infrastructure", 0x999999),
    11: ("fence", 0xBE9999),
    12: ("billboard", 0x961414),
    13: ("trafficlight", 0xFAAA1E),
    14: ("trafficsign", 0xDCDC00),
    15: ("mobilebarrier", 0xB4B464),
    16: ("firehydrant", 0xAD9999),
    17: ("chair", 0xA89999),
    18: ("trash", 0x510015),
    19: ("trashcan", 0x510051),
    20: ("person", 0xDC143C),
    23: ("motorcycle", 0x0000E6),
    24: ("car", 0x00008E),
    25: ("van", 0x005064),
    26: ("bus", 0x003C64),
    27: ("truck", 0x000046),
}
"""Number: name and colour of the classes that the benchmark evaluates, 23 of 32. In colours van and train are one."""
SETS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "test"))
"""The test set's classes are not published: the official val is our test, and val is cut from train by sequence."""


def read(folder: Path) -> Listing:
    """The frames that have pixel classes (the publisher offers every tenth by itself), and which occur in each.

    Every class image is decoded once, about 20 ms each: 18,000 take 3 minutes on two cores.
    """
    images: dict[str, tuple[Split, list[str]]] = {}
    for name, split in SETS:
        top = folder / name
        frames = sorted((top / "cls").glob("*/*.png"))
        if not frames:
            raise FileNotFoundError(2, "", str(top / "cls"))
        with ThreadPoolExecutor() as pool:
            for frame, classes in zip(frames, pool.map(_classes, frames, chunksize=8), strict=True):
                images[f"{name}/img/{frame.parent.name}/{frame.stem}.jpg"] = (split, list(classes))
    names = [name for name, _ in CLASSES.values()]
    return Listing.multi_label(Folder(folder), images, names).grouped(lambda name: name.rpartition("/")[0])


def _classes(path: Path) -> Sequence[str]:
    """The classes of which a frame has a pixel."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("P", "L"):
                numbers = np.flatnonzero(np.bincount(np.asarray(image).ravel())).tolist()
                return [CLASSES[number][0] for number in numbers if number in CLASSES]
            colours = set(np.unique(_packed(image)).tolist())
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(path, error) from None
    return [name for name, colour in CLASSES.values() if colour in colours]


def _packed(image: Image.Image) -> npt.NDArray[np.uint32]:
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.uint32), -1, 0)
    packed: npt.NDArray[np.uint32] = red << 16 | green << 8 | blue
    return packed
