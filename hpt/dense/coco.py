"""COCO's JSON: images, categories and objects of a split in one file.

Layout: https://cocodataset.org/#format-data. A bbox is x, y, width, height, from 0; ids of categories may have gaps.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hpt.data.annotation_files import LARGEST, Head, Places, split_of_file
from hpt.data.left_out import counted
from hpt.data.listing import Note
from hpt.dense.annotated_boxes import AnnotatedBoxes, ImageBoxes, image_boxes, named
from hpt.errors import DataError

MATCHING = 0.5
"""The share of a file's images that must be there, and of the images that files must mention."""


def read(files: Sequence[str], images: Collection[str], head: Head) -> AnnotatedBoxes:
    """The boxes of images, from all files of a dataset; of crowds as difficult ones.

    Raises:
        DataError: a file is not COCO's, files contradict each other, or most images do not match.
    """
    facts = {name: parse(head(name, LARGEST), name) for name in files}
    numbers, classes = categories(facts)
    resolve = Places(images)
    found: dict[str, ImageBoxes] = {}
    said_by: dict[str, str] = {}
    notes: list[Note] = []
    absent: list[str] = []
    strangers = 0
    for name in sorted(files, key=lambda each: (split_of_file(each) is None, each)):
        entries = facts[name]["images"]
        things: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for thing in facts[name]["annotations"]:
            things[thing["image_id"]].append(thing)
        ids = {entry["id"] for entry in entries}
        strangers += sum(len(some) for number, some in things.items() if number not in ids)
        split = split_of_file(name)
        missing = []
        for entry in entries:
            path = str(field_of(entry, "file_name", name))
            image = resolve(path, split, name)
            if image is None:
                missing.append(path)
                continue
            boxes = _boxes(entry, things.get(entry["id"], []), numbers, name)
            if image in found:
                if said_by[image] == name or len(boxes.labels) != len(found[image].labels):
                    other = "twice" if said_by[image] == name else f"in {said_by[image]} too, with other objects"
                    raise DataError(f"{image} is in {name} {other}", "keep the file, or the entry, that is right")
                continue
            found[image], said_by[image] = boxes, name
        absent += missing
        if entries and len(missing) > (1 - MATCHING) * len(entries):
            raise DataError(
                f"{len(missing):,} of {len(entries):,} images of {name} are not there: {named(missing)}",
                "put the images beside it, under the names that its file_name have",
            )
    if absent:
        notes.append(Note(f"{counted(len(absent), 'image')} of the annotations are not there: {named(sorted(absent))}"))
    if strangers:
        notes.append(Note(f"{counted(strangers, 'object')} of no image in its file left out"))
    silent = sorted(set(images) - found.keys())
    if len(silent) > (1 - MATCHING) * len(images):
        raise DataError(
            f"{len(silent):,} of {len(images):,} images are in no annotation file ({', '.join(sorted(files))}): "
            f"{named(silent)}",
            "name the folder that holds what is annotated, or add them with no objects",
        )
    return AnnotatedBoxes(classes, found, notes)


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        DataError: it is damaged, or another kind of JSON.
    """
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not whole JSON: {error}", "export it again") from None
    lists = ("images", "categories")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(each), list) for each in lists):
        lacking = next((each for each in lists if not isinstance(facts, dict) or each not in facts), "images")
        raise DataError(f"{name} lacks the list '{lacking}' of COCO's format", "export it as COCO detection JSON")
    facts["annotations"] = facts.get("annotations") or []
    for each, ids in (("images", ("id",)), ("categories", ("id",)), ("annotations", ("image_id", "category_id"))):
        if not isinstance(facts[each], list):
            raise DataError(f"{name}: '{each}' is not a list", "export it as COCO detection JSON")
        for entry in facts[each]:
            for key in ids:
                field_of(entry, key, name)
    return facts


def categories(facts: Mapping[str, Mapping[str, Any]]) -> tuple[dict[Any, int], tuple[str, ...]]:
    """The number of each category's id, without gaps and in their order, and the names.

    A category that is but the parent of the others and has no objects (Roboflow's first) is none.

    Raises:
        DataError: files call one id by two names, or two by one.
    """
    names: dict[Any, str] = {}
    parents: set[str] = set()
    used: set[Any] = set()
    for file, each in facts.items():
        used |= {thing["category_id"] for thing in each["annotations"]}
        for category in each["categories"]:
            number, name = category["id"], str(field_of(category, "name", file))
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"category {number} is '{names[number]}' in one file and '{name}' in {file}",
                    "export the splits with the same categories",
                )
            parents.add(str(category.get("supercategory", "")))
    names = {number: name for number, name in names.items() if number in used or name not in parents}
    order = sorted(names, key=lambda number: (not isinstance(number, int), number))
    classes = tuple(names[number] for number in order)
    if twice := next((name for name in classes if classes.count(name) > 1), None):
        raise DataError(f"two categories are called '{twice}'", "give each a name of its own, or merge them")
    return {number: i for i, number in enumerate(order)}, classes


def _boxes(
    entry: Mapping[str, Any], things: Sequence[Mapping[str, Any]], numbers: Mapping[Any, int], file: str
) -> ImageBoxes:
    boxes: list[tuple[float, float, float, float]] = []
    labels, crowds = [], []
    for thing in things:
        number = thing["category_id"]
        if number not in numbers:
            raise DataError(
                f"{file}: an object of {entry['file_name']} has the category {number}, which is none of its categories",
                "export it again",
            )
        try:
            left, top, width, height = (float(value) for value in thing["bbox"])
        except (KeyError, TypeError, ValueError):
            left = top = width = height = float("nan")  # dropped as one that is no box, and counted
        boxes.append((left, top, left + width, top + height))
        labels.append(numbers[number])
        crowds.append(bool(thing.get("iscrowd", 0)))
    return image_boxes(boxes, labels, crowds, size_of(entry))


def size_of(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """The height and width that a file says of an image; None where it says none."""
    try:
        height, width = int(entry["height"]), int(entry["width"])
    except (KeyError, TypeError, ValueError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def field_of(entry: Any, name: str, file: str) -> Any:
    """A field of an entry, which may be an id.

    Raises:
        DataError: it lacks, or is a list.
    """
    try:
        value = entry[name]
        hash(value)
    except (KeyError, TypeError, IndexError):
        raise DataError(f"{file}: an entry has no '{name}'", "export it as COCO detection JSON") from None
    return value
