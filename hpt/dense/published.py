"""Boxes and masks of the catalogue's own datasets, by the names that their listings have.

pascal-voc   boxes of VOCdevkit/*/Annotations; masks of SegmentationClass, with splits of ImageSets/Segmentation
coco-2014    boxes of instances_*.json, and masks drawn from their outlines
bdd          boxes (box2d) of the label files, of the frames whose weather is known
xview        boxes on chips; of an object that a chip hardly shows as difficult
viper        masks of cls/, the 23 classes that the benchmark evaluates
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from hpt.data.annotation_files import Head
from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers import coco as coco_2014
from hpt.data.publishers import viper, xview
from hpt.data.publishers import voc as pascal_voc
from hpt.data.publishers.annotations import damaged, read_json, read_words
from hpt.dense import coco, instance_masks, voc
from hpt.dense.annotated_boxes import AnnotatedBoxes, ImageBoxes, image_boxes
from hpt.dense.class_list import ClassList, ListedClass
from hpt.dense.instance_masks import AnnotatedMasks

BACKGROUND = "background"


def _head(place: Path) -> Head:
    def head(name: str, size: int) -> bytes:
        with (place / name).open("rb") as file:
            return file.read(size)

    return head


def _voc_boxes(place: Path, listing: Listing) -> AnnotatedBoxes:
    by_image = {name: f"{name.replace('/JPEGImages/', '/Annotations/')[:-4]}.xml" for name in listing.names}
    return voc.read(by_image, _head(place), pascal_voc.CLASSES)


def _coco_files() -> list[str]:
    return [f"annotations/instances_{name}.json" for name, _ in coco_2014.SETS]


def _coco_boxes(place: Path, listing: Listing) -> AnnotatedBoxes:
    return coco.read(_coco_files(), listing.names, _head(place))


def _bdd_boxes(place: Path, listing: Listing) -> AnnotatedBoxes:
    there = set(listing.names)
    found: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {}
    for split in ("train", "val"):
        path = place / "bdd100k" / "labels" / f"bdd100k_labels_images_{split}.json"
        try:
            for frame in read_json(path):
                name = f"bdd100k/images/100k/{split}/{frame['name']}"
                if name not in there:
                    continue
                boxes = found.setdefault(name, [])
                for thing in frame.get("labels") or ():
                    if corners := thing.get("box2d"):
                        left, top, right, bottom = (float(corners[side]) for side in ("x1", "y1", "x2", "y2"))
                        boxes.append((thing["category"], (left, top, right, bottom)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, f"no {error}" if isinstance(error, KeyError) else error) from None
    classes = tuple(sorted({label for boxes in found.values() for label, _ in boxes}))
    number = {label: i for i, label in enumerate(classes)}
    return AnnotatedBoxes(
        classes,
        {
            name: image_boxes([box for _, box in boxes], [number[label] for label, _ in boxes])
            for name, boxes in found.items()
        },
    )


def _xview_boxes(place: Path, listing: Listing) -> AnnotatedBoxes:
    number = {name: i for i, name in enumerate(listing.classes)}
    objects = xview.read_objects(place)
    images: dict[str, ImageBoxes] = {}
    for name in listing.names:
        folder, _, at = name.rpartition("/")
        row, column = (int(part) for part in at.split("-"))
        corners, kinds = objects[f"{Path(folder).name}.tif"]
        left, top = column * xview.CHIP, row * xview.CHIP
        shown = xview.shows(corners, left, top)
        enough = xview.covers(corners, left, top)
        known = np.array([xview.TYPES.get(kind) in number for kind in kinds.tolist()], dtype=np.bool_)
        some = np.flatnonzero(shown & known)
        labels = [number[xview.TYPES[kind]] for kind in kinds[some].tolist()]
        boxes = (corners[some] - np.array([left, top, left, top])).clip(0, xview.CHIP)
        images[name] = ImageBoxes(boxes, np.array(labels, dtype=np.int64), ~enough[some])
    return AnnotatedBoxes(listing.classes, images)


def _voc_masks(place: Path, listing: Listing) -> AnnotatedMasks:
    by_image: dict[str, str] = {}
    splits: dict[str, Split] = {}
    there = set(listing.names)
    for year, split in pascal_voc.SETS:
        top = f"VOCdevkit/{year}"
        masks = {path.stem for path in (place / top / "SegmentationClass").glob("*.png")}
        for words in read_words(place / top / "ImageSets" / "Segmentation" / f"{split}.txt"):
            image = f"{top}/JPEGImages/{words[0]}.jpg"
            if image in there and words[0] in masks:
                by_image[image] = f"{top}/SegmentationClass/{words[0]}.png"
                splits[image] = split
    classes = [ListedClass(name, number) for number, name in enumerate((BACKGROUND, *pascal_voc.CLASSES))]
    return AnnotatedMasks(Folder(place), by_image, ClassList(tuple(classes), frozenset(), "VOC's classes"), splits)


def _coco_masks(place: Path, listing: Listing) -> AnnotatedMasks:
    return instance_masks.of_coco(_coco_files(), listing.names, _head(place), Folder(place))


def _viper_masks(place: Path, listing: Listing) -> AnnotatedMasks:
    by_image = {name: f"{name.replace('/img/', '/cls/')[:-4]}.png" for name in listing.names}
    classes = tuple(ListedClass(name, number, colour) for number, (name, colour) in viper.CLASSES.items())
    others = frozenset(range(256)) - viper.CLASSES.keys()
    return AnnotatedMasks(Folder(place), by_image, ClassList(classes, others, "VIPER's classes"), {})


BOXES: Mapping[str, Callable[[Path, Listing], AnnotatedBoxes]] = {
    "pascal-voc": _voc_boxes,
    "coco-2014": _coco_boxes,
    "bdd": _bdd_boxes,
    "xview": _xview_boxes,
}
"""By the name of the row."""
FILES: Mapping[str, Sequence[str]] = {
    "pascal-voc": ("VOCdevkit/*/Annotations/*.xml",),
    "coco-2014": ("annotations/instances_*.json",),
    "bdd": ("bdd100k/labels/*.json",),
    "xview": ("xView_train.geojson",),
}
"""Patterns of the annotation files, by which it is known whether boxes changed."""
MASKS: Mapping[str, Callable[[Path, Listing], AnnotatedMasks]] = {
    "pascal-voc": _voc_masks,
    "coco-2014": _coco_masks,
    "viper": _viper_masks,
}


def names(task: str) -> Collection[str]:
    """The rows that have boxes, or masks."""
    return (BOXES if task == "detection" else MASKS).keys()
