"""What is annotated in a dataset: of a row of the catalogue, a folder, a zip file or a table."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from hpt.callbacks import Progress
from hpt.data.annotation_files import LARGEST
from hpt.data.folder import Annotated, Folder, open_annotated
from hpt.data.listing import Listing
from hpt.data.names import find as find_dataset
from hpt.data.names import name_of
from hpt.data.packed import is_packed
from hpt.data.remote import Address, Place
from hpt.data.row import CatalogRow
from hpt.dense import box_table, class_list, coco, instance_masks, kept, published, voc, yolo
from hpt.dense.annotated_boxes import AnnotatedBoxes
from hpt.dense.class_list import ClassList
from hpt.dense.instance_masks import AnnotatedMasks
from hpt.dense.targets import DenseTask
from hpt.errors import DataError

TASKS: tuple[DenseTask, ...] = ("detection", "segmentation")
LAYOUTS = {
    "detection": "COCO's JSON, VOC's XML, YOLO's texts with a data.yaml, or a .csv with path,xmin,ymin,xmax,ymax,label",
    "segmentation": "masks beside the images, as train/images and train/masks or SegmentationClass, or COCO's outlines",
}


@dataclass(frozen=True)
class Found:
    """A dataset with its targets, before any image is read."""

    dataset: CatalogRow | Place
    """The row or the place."""
    listing: Listing
    """The images, as a pretraining lists them."""
    boxes: AnnotatedBoxes | None
    """The boxes, of a detection."""
    masks: AnnotatedMasks | None
    """The masks, of a segmentation."""


def find(dataset: str, task: DenseTask, progress: Progress | None = None) -> Found:
    """What `names.find` finds, with the boxes or masks that lie there.

    Raises:
        DataError: there is no such dataset, it has no boxes or masks, or they cannot be read.
    """
    found = find_dataset(dataset)
    if isinstance(found, CatalogRow) and found.path is None:
        return _published(found, task, progress)
    path = found.path if isinstance(found, CatalogRow) else found
    assert path is not None
    if isinstance(path, Address) or is_packed(path):
        refuse_missing(name_of(found), task)
    with open_annotated(path.resolve()) as content:
        # A row of the user's own may group what a cut must not divide.
        listing = found.listing(progress) if isinstance(found, CatalogRow) else content.listing
        if task == "detection":
            return Found(found, listing, _boxes(name_of(found), path.resolve(), content), None)
        return Found(found, listing, None, _masks(name_of(found), path, content))


def tasks_of(dataset: str) -> tuple[DenseTask, ...]:
    """The tasks whose annotations a dataset has, by the names of files alone.

    Raises:
        DataError: there is no such dataset.
    """
    found = find_dataset(dataset)
    path = found.path if isinstance(found, CatalogRow) else found
    if isinstance(found, CatalogRow) and path is None:
        return tuple(task for task in TASKS if found.name in published.names(task) and found.ready())
    if path is None or isinstance(path, Address) or not path.exists() or is_packed(path):
        return ()
    if path.is_file() and path.suffix.lower() not in (".zip", ".csv", ".tsv"):
        return ()
    if path.is_file() and path.suffix.lower() != ".zip":
        from hpt.data.folder import is_box_table

        return ("detection",) if is_box_table(path) else ()
    with open_annotated(path.resolve()) as content:
        tasks: list[DenseTask] = []
        if content.annotations.kind is not None:
            tasks.append("detection")
        if content.annotations.masks or _outlines(content):
            tasks.append("segmentation")
        return tuple(tasks)


def _published(row: CatalogRow, task: DenseTask, progress: Progress | None) -> Found:
    if row.name not in published.names(task):
        what = "boxes" if task == "detection" else "masks"
        raise DataError(
            f"{row.name} has no {what}",
            f"{', '.join(published.names(task))} have them, and so may a folder of yours: {LAYOUTS[task]}",
        )
    listing = row.listing(progress)
    try:
        if task == "detection":
            files = [
                file.relative_to(row.place).as_posix()
                for pattern in published.FILES[row.name]
                for file in row.place.glob(pattern)
            ]
            read = partial(published.BOXES[row.name], row.place, listing)
            return Found(row, listing, kept.keep(row.name, Folder(row.place), files, listing.names, read), None)
        return Found(row, listing, None, published.MASKS[row.name](row.place, listing))
    except FileNotFoundError as error:
        raise row.not_here(str(error.filename)) from None


def refuse_missing(name: str, task: DenseTask) -> NoReturn:
    """Refuse a dataset without boxes or masks, with a DataError."""
    what = "boxes" if task == "detection" else "masks"
    raise DataError(f"{name} has no {what} beside its images that hptctl reads", f"it reads {LAYOUTS[task]}")


def _boxes(name: str, path: Path, content: Annotated) -> AnnotatedBoxes:
    annotations = content.annotations
    if annotations.kind is None:
        refuse_missing(name, "detection")
    images = _full(content)
    files = annotations.files or tuple(sorted(set(annotations.by_image.values())))

    def read() -> AnnotatedBoxes:
        return _read_boxes(content, images)

    # YOLO's classes stand in a file of their own, which the kept boxes would not see change.
    long = annotations.kind != "yolo" and kept.are_long(files, content.head)
    found = kept.keep(str(path), content.source, files, images, read) if long else read()
    if not any(len(each.labels) for each in found.images.values()):
        raise DataError(f"{name} has annotations and not one box", "annotate some images, or name another dataset")
    below = {image.removeprefix(content.prefix): boxes for image, boxes in found.images.items()}
    return AnnotatedBoxes(found.classes, below, found.notes)


def _read_boxes(content: Annotated, images: Collection[str]) -> AnnotatedBoxes:
    annotations, head = content.annotations, content.head
    if annotations.kind == "coco":
        return coco.read(annotations.files, images, head)
    if annotations.kind == "voc":
        return voc.read({image: file for image, file in annotations.by_image.items() if image in images}, head)
    if annotations.kind == "yolo":
        return yolo.read(annotations.by_image, images, content.others, head)
    return box_table.read(annotations.files, images, head)


def _masks(name: str, path: Path, content: Annotated) -> AnnotatedMasks:
    annotations = content.annotations
    images = _full(content)
    by_image = {
        image.removeprefix(content.prefix): mask for image, mask in annotations.masks.items() if image in images
    }
    if not by_image and _outlines(content):
        return instance_masks.of_coco(annotations.files, images, content.head, content.source, content.prefix)
    if not by_image:
        refuse_missing(name, "segmentation")
    splits = {image.removeprefix(content.prefix): split for image, split in annotations.mask_splits.items()}
    classes = class_list.find(content.others, content.head) or _beside(path)
    return AnnotatedMasks(content.source, by_image, classes, splits)


def _outlines(content: Annotated) -> bool:
    """Whether there is a COCO file whose objects have outlines; those of boxes alone have an empty list."""
    return content.annotations.kind == "coco" and any(
        re.search(rb'"segmentation"\s*:\s*(\[\s*\[|\{)', content.head(name, LARGEST))
        for name in content.annotations.files
    )


def _full(content: Annotated) -> Collection[str]:
    return {f"{content.prefix}{name}" for name in content.listing.names}


def _beside(path: Path) -> ClassList | None:
    """The list of classes beside a folder or a zip file, under its name: `my-images.json`."""
    for suffix in (".json", ".yaml", ".csv", ".txt"):
        file = path.with_name(f"{path.name if path.is_dir() else path.stem}{suffix}")
        if file.is_file():
            found = class_list.parse(file.read_bytes(), file.name)
            if found is not None:
                return found
    return None
