"""VOC's XML: a file per image.

Layout: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 8. The first pixel is 1 and a
box includes its last one: xmin..xmax is the box from xmin - 1 to xmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hpt.data.annotation_files import Head
from hpt.dense.annotated_boxes import AnnotatedBoxes, ImageBoxes, image_boxes, read_each
from hpt.errors import DataError

LARGEST = 64 << 20
"""The most bytes of a file."""

Thing = tuple[str, tuple[float, float, float, float], bool]


def read(by_image: Mapping[str, str], head: Head, classes: Iterable[str] | None = None) -> AnnotatedBoxes:
    """The boxes of images; the classes are those that occur, by their names.

    Raises:
        DataError: files are damaged, or are not VOC's; all are named.
    """
    found = read_each(by_image, lambda file: _read(head(file, LARGEST), file))
    if classes is None:
        classes = sorted({name for things, _ in found.values() for name, _, _ in things})
    names = tuple(classes)
    number = {name: i for i, name in enumerate(names)}
    images: dict[str, ImageBoxes] = {}
    for image, (things, size) in found.items():
        if unknown := [name for name, _, _ in things if name not in number]:
            raise DataError(f"{by_image[image]}: '{unknown[0]}' is none of the classes", "correct the file")
        images[image] = image_boxes(
            [box for _, box, _ in things],
            [number[name] for name, _, _ in things],
            [hard for _, _, hard in things],
            size,
        )
    return AnnotatedBoxes(names, images)


def _read(data: bytes, name: str) -> tuple[list[Thing], tuple[int, int] | None]:
    root = parse(data, name)
    things: list[Thing] = []
    for thing in root.findall("object"):
        label = (thing.findtext("name") or "").strip()
        if not label:
            raise DataError(f"{name}: an object has no name", "correct the file, or export it again")
        corners = [_number(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = corners
        hard = (thing.findtext("difficult") or "0").strip() == "1"
        things.append((label, (left - 1, top - 1, right, bottom), hard))
    height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    return things, (int(height), int(width)) if height > 0 and width > 0 else None


def _number(text: str | None) -> float:
    """NaN for what is none: such a box is dropped and counted."""
    try:
        return float(text or "")
    except ValueError:
        return float("nan")


def parse(data: bytes, name: str) -> Element:
    """The root of an XML file from a stranger: without a DTD, since entities can fill any memory.

    Raises:
        DataError: it has one, is damaged, or is not VOC's.
    """
    builder: TreeBuilder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise DataError(f"{name} is refused: it declares a document type", "remove its DOCTYPE")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        root: Element = builder.close()
    except (expat.ExpatError, AssertionError, ValueError) as error:
        raise DataError(f"{name} is damaged: {error}", "export it again, or remove it and its image") from None
    if root.tag != "annotation":
        raise DataError(f"{name} is not VOC's: it begins with <{root.tag}>", "export it as Pascal VOC")
    return root
