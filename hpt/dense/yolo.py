"""YOLO's texts: a file per image, and the classes in a yaml.

    data.yaml                    names: [cat, dog], or {0: cat, 1: dog}
    images/train/1.jpg           labels/train/1.txt; also train/images/1.jpg and train/labels/1.txt
    1.txt                        class, centre x, centre y, width, height: a line an object, in shares of the image

Layout: https://docs.ultralytics.com/datasets/detect/. An image without a text has no objects. Of outlines
(segments, turned boxes) the box around is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import yaml

from hpt.data.annotation_files import Head
from hpt.data.left_out import counted
from hpt.data.listing import Note
from hpt.dense.annotated_boxes import AnnotatedBoxes, ImageBoxes, image_boxes, named, read_each
from hpt.errors import DataError

LARGEST = 16 << 20
"""The most bytes of a file."""
NAMES = ("classes.txt", "obj.names", "class_names.txt", "_darknet.labels", "labels.names", "predefined_classes.txt")
"""Files of names of classes, a line each."""


def read(by_image: Mapping[str, str], images: Collection[str], others: Collection[str], head: Head) -> AnnotatedBoxes:
    """The boxes of images.

    Raises:
        DataError: lines are not YOLO's, or name a class that the yaml does not; all their files are named.
    """
    names, file = class_names(others, head)

    def of_file(text: str) -> ImageBoxes:
        found = _read(head(text, LARGEST), text)
        highest = int(found.labels.max(initial=-1))
        if names and highest >= len(names):
            raise DataError(
                f"{text} has the class {highest}, and {file} names 0 to {len(names) - 1}", "add its name there"
            )
        return found

    found = read_each({image: by_image[image] for image in images if image in by_image}, of_file)
    highest = max((int(each.labels.max(initial=-1)) for each in found.values()), default=-1)
    notes = []
    if bare := sorted(image for image in images if image not in by_image):
        found |= {image: image_boxes([], [], shares=True) for image in bare}
        notes.append(Note(f"{counted(len(bare), 'image')} without a file of labels: no objects, as {named(bare)}"))
    if not names:
        names = tuple(str(number) for number in range(highest + 1))
        notes.append(Note("no data.yaml names the classes: they are called by their numbers"))
    return AnnotatedBoxes(names, found, notes)


def class_names(others: Collection[str], head: Head) -> tuple[tuple[str, ...], str]:
    """The names of the classes and the file that has them; none where no file has.

    Raises:
        DataError: the file is not YAML, or its names are neither a list nor numbered.
    """
    for name in sorted(others, key=lambda each: (each.count("/"), each)):
        if PurePosixPath(name).suffix.lower() in (".yaml", ".yml"):
            try:
                facts = yaml.safe_load(head(name, LARGEST).decode("utf-8-sig", "replace"))
            except (yaml.YAMLError, RecursionError, ValueError) as error:
                raise DataError(f"{name} is not YAML: {' '.join(str(error).split())}", "correct it") from None
            if isinstance(facts, dict) and "names" in facts:
                return _names(facts["names"], name), name
    for name in sorted(others, key=lambda each: (each.count("/"), each)):
        if PurePosixPath(name).name.lower() in NAMES:
            lines = head(name, LARGEST).decode("utf-8-sig", "replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip()), name
    return (), ""


def _names(names: object, file: str) -> tuple[str, ...]:
    if isinstance(names, list) and names:
        found = [str(name) for name in names]
    elif (
        isinstance(names, dict) and names and all(isinstance(number, int) and 0 <= number < 10_000 for number in names)
    ):
        found = [str(names.get(number, number)) for number in range(max(names) + 1)]
    else:
        raise DataError(f"{file}: 'names' is neither a list nor numbered", "write names: [cat, dog]")
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise DataError(f"{file} names two classes '{twice}'", "give each a name of its own")
    return tuple(found)


def _read(data: bytes, name: str) -> ImageBoxes:
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            label = int(float(words[0]))
            values = [float(word) for word in words[1:]]
            if label < 0 or label != float(words[0]) or len(values) < 4:
                raise ValueError
        except (ValueError, OverflowError):
            raise DataError(
                f"{name}, line {number}: '{line.strip()[:60]}' is not a class and shares of the image",
                "write: class, centre x, centre y, width, height",
            ) from None
        if len(values) >= 6 and len(values) % 2 == 0:
            across, down = values[::2], values[1::2]
            boxes.append((min(across), min(down), max(across), max(down)))
        else:
            x, y, width, height = values[:4]
            boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        labels.append(label)
    return image_boxes(boxes, labels, shares=True)
