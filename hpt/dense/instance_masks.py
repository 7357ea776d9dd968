"""Masks drawn from the outlines of objects, as COCO's JSON has them: each pixel has the class of the smallest there.

Pixels of no object are background; those of crowds are ignored, where no object lies on them. Outlines are polygons, or
runs of pixels column by column, packed or not (https://github.com/cocodataset/cocoapi, common/maskApi.c).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hpt.data.annotation_files import LARGEST, Head, Places, split_of_file
from hpt.data.file_kinds import check_pixels
from hpt.data.listing import ImageSource, Read, Split, Unreadable
from hpt.dense import coco
from hpt.dense.class_list import ClassList, ListedClass
from hpt.dense.targets import IGNORED
from hpt.errors import DataError

BACKGROUND = "background"
VERSION = 1
"""Raise it when the same outlines become other pixels."""


@dataclass(frozen=True)
class AnnotatedMasks:
    """The masks of a dataset."""

    source: ImageSource
    """What reads them."""
    by_image: Mapping[str, str]
    """The mask of each annotated image, by the image's name in the listing."""
    classes: ClassList | None
    """What numbers or colours mean; None where nothing says it."""
    splits: Mapping[str, Split]
    """The splits of the masks' own lists; none where the images' serve."""


@dataclass(frozen=True)
class _Outlined:
    """An object: what its pixels become, and its outline."""

    number: int
    area: float
    outline: Any


@dataclass(frozen=True)
class Drawn:
    """A source of masks that are drawn when they are read, by the names of their images."""

    things: Mapping[str, Sequence[_Outlined]]
    sizes: Mapping[str, tuple[int, int]]
    """The height and width of each."""
    files: ImageSource
    """What reads the annotation files, which tells whether they changed."""
    annotations: tuple[str, ...]

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield f"outlines {VERSION}"
        yield from self.files.stamp(self.annotations)

    @contextmanager
    def open(self) -> Iterator[Read]:
        yield self._draw

    def _draw(self, name: str) -> bytes:
        height, width = self.sizes[name]
        check_pixels(height, width, 1, Image.MAX_IMAGE_PIXELS)
        mask = Image.new("L", (width, height), 0)
        for thing in sorted(self.things.get(name, ()), key=lambda thing: -thing.area):
            try:
                _draw_on(mask, thing)
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                raise Unreadable(f"an outline is damaged: {error}") from None
        return b"P5 %d %d 255\n" % (width, height) + mask.tobytes()


def of_coco(
    files: Sequence[str], images: Collection[str], head: Head, source: ImageSource, below: str = ""
) -> AnnotatedMasks:
    """The masks of COCO's objects; `below` is what stands before the names of images in a listing.

    Raises:
        DataError: as `coco.read`; or an image has no size, or not one object an outline.
    """
    facts = {name: coco.parse(head(name, LARGEST), name) for name in files}
    numbers, classes = coco.categories(facts)
    if len(classes) > 254:
        raise DataError(f"{len(classes)} categories are more than the 254 that a mask can hold", "merge some")
    resolve = Places(images)
    things: dict[str, list[_Outlined]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    for name in sorted(files, key=lambda each: (split_of_file(each) is None, each)):
        of_id: dict[Any, str] = {}
        for entry in facts[name]["images"]:
            image = resolve(str(entry.get("file_name", "")), split_of_file(name), name)
            size = coco.size_of(entry)
            if image is None or image in sizes:
                continue
            if size is None:
                raise DataError(f"{name}: {entry.get('file_name')} has no height and width", "export it again")
            of_id[entry["id"]], sizes[image] = image, size
        for thing in facts[name]["annotations"]:
            image = of_id.get(thing["image_id"])
            outline = thing.get("segmentation")
            if image is None or not outline or thing["category_id"] not in numbers:
                continue
            crowd = bool(thing.get("iscrowd", 0))
            number = IGNORED if crowd else numbers[thing["category_id"]] + 1
            area = thing.get("area")
            area = float("inf") if crowd else float(area) if isinstance(area, (int, float)) else 0.0
            things[image].append(_Outlined(number, area, outline))
    if not things:
        raise DataError(f"no object in {', '.join(files)} has an outline", "export them with segmentation")
    listed = tuple(ListedClass(each, number) for number, each in enumerate((BACKGROUND, *classes)))
    names = {image.removeprefix(below): image for image in sizes}
    drawn = Drawn(things, sizes, source, tuple(files))
    return AnnotatedMasks(drawn, names, ClassList(listed, frozenset(), "the categories"), {})


def _draw_on(mask: Image.Image, thing: _Outlined) -> None:
    if isinstance(thing.outline, dict):
        height, width = (int(length) for length in thing.outline["size"])
        if (width, height) != mask.size:
            raise ValueError(f"runs of {width} x {height} pixels in an image of {mask.width} x {mask.height}")
        inside = Image.fromarray(runs(thing.outline["counts"], height, width))
        mask.paste(thing.number, (0, 0), inside)
        return
    pen = ImageDraw.Draw(mask)
    for polygon in thing.outline:
        points = [float(value) for value in polygon]
        if len(points) >= 6:
            # Coordinates are of edges, and Pillow's of the centres of pixels.
            pen.polygon([value - 0.5 for value in points[: len(points) // 2 * 2]], fill=thing.number)


def runs(counts: Any, height: int, width: int) -> npt.NDArray[np.uint8]:
    """[H, W] 255 inside: from runs outside and inside in turn, down the columns; as numbers, or packed in a text.

    Raises:
        ValueError: they do not fill the image.
    """
    if isinstance(counts, (str, bytes)):
        counts = _unpacked(counts.encode() if isinstance(counts, str) else counts)
    lengths = np.array(counts, dtype=np.int64)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise ValueError("runs do not fill the image")
    values = np.arange(len(lengths)) % 2 * 255
    inside: npt.NDArray[np.uint8] = np.repeat(values, lengths).astype(np.uint8).reshape(width, height).T
    return np.ascontiguousarray(inside)


def _unpacked(text: bytes) -> list[int]:
    """Five bits a character, the least first, as differences to the run before the last."""
    found: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            part = text[at] - 48
            value |= (part & 0x1F) << shift
            more = bool(part & 0x20)
            at, shift = at + 1, shift + 5
            if not more and part & 0x10:
                value |= -1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
    return found
