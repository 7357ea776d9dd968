"""Small folders of images with boxes or masks, in every layout that people have."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from miniatures import image
from PIL import Image

WIDTH, HEIGHT = 40, 30
CAT, DOG = "cat", "dog"
Box = tuple[str, float, float, float, float]
"""A class, left, top, right and bottom, in pixels from 0."""
BOXES: dict[str, dict[str, list[Box]]] = {
    "train": {
        "a": [(CAT, 2, 3, 12, 13), (DOG, 20, 5, 40, 30)],
        "b": [(DOG, 0, 0, 8, 9)],
        "c": [],
        "d": [(CAT, 5, 5, 30, 25)],
    },
    "val": {"e": [(CAT, 1, 1, 6, 6)]},
    "test": {"f": [(DOG, 10, 10, 20, 20), (CAT, 30, 20, 39, 29)]},
}
"""What every layout below says, by split and image."""


def jpeg(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """An image of its own for each name."""
    return image(path, sum(map(ord, path.name)), size)


def zipped(folder: Path) -> Path:
    """The folder as a zip file beside it."""
    out = folder.with_suffix(".zip")
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent).as_posix())
    return out


def coco_facts(images: Mapping[str, Sequence[Box]], ids: tuple[int, int] = (3, 7)) -> dict[str, object]:
    """COCO's JSON, with gaps between the ids of categories."""
    number = dict(zip((CAT, DOG), ids, strict=True))
    entries, things = [], []
    for i, (stem, boxes) in enumerate(images.items(), start=1):
        entries.append({"id": i, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for label, left, top, right, bottom in boxes:
            bbox = [left, top, right - left, bottom - top]
            things.append({"id": len(things), "image_id": i, "category_id": number[label], "bbox": bbox, "iscrowd": 0})
    categories = [{"id": id_, "name": name, "supercategory": "animal"} for name, id_ in number.items()]
    return {"info": {}, "images": entries, "annotations": things, "categories": categories}


def write_json(path: Path, facts: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))


def voc_xml(boxes: Sequence[Box], size: tuple[int, int] = (WIDTH, HEIGHT), difficult: bool = False) -> str:
    """VOC's XML: pixels from 1, the last one included."""
    things = "".join(
        f"<object><name>{label}</name><truncated>1</truncated><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{left + 1:g}</xmin><ymin>{top + 1:g}</ymin><xmax>{right:g}</xmax><ymax>{bottom:g}</ymax>"
        "</bndbox></object>"
        for label, left, top, right, bottom in boxes
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{things}</annotation>"


def yolo_lines(boxes: Sequence[Box]) -> str:
    return "".join(
        f"{(CAT, DOG).index(label)} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} "
        f"{(right - left) / WIDTH} {(bottom - top) / HEIGHT}\n"
        for label, left, top, right, bottom in boxes
    )


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco_beside_splits(root: Path) -> None:
    for split, images in BOXES.items():
        write_json(root / f"{split}.json", coco_facts(images))
        for stem in images:
            jpeg(root / split / f"{stem}.jpg")


def coco_2017(root: Path) -> None:
    for split, images in BOXES.items():
        write_json(root / "annotations" / f"instances_{split}2017.json", coco_facts(images))
        write_json(root / "annotations" / f"captions_{split}2017.json", {"images": [], "annotations": []})
        for stem in images:
            jpeg(root / f"{split}2017" / f"{stem}.jpg")


def coco_roboflow(root: Path) -> None:
    for split, images in BOXES.items():
        facts = coco_facts(images)
        facts["categories"] = [{"id": 0, "name": "animal", "supercategory": "none"}, *facts["categories"]]  # type: ignore[misc]
        write_json(root / {"val": "valid"}.get(split, split) / "_annotations.coco.json", facts)
        for stem in images:
            jpeg(root / {"val": "valid"}.get(split, split) / f"{stem}.jpg")


def coco_one_folder(root: Path) -> None:
    for split, images in BOXES.items():
        write_json(root / "annotations" / f"{split}.json", coco_facts(images))
        for stem in images:
            jpeg(root / "images" / f"{stem}.jpg")


def voc_folders(root: Path) -> None:
    for split, images in BOXES.items():
        text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in images))
        for stem, boxes in images.items():
            jpeg(root / "JPEGImages" / f"{stem}.jpg")
            text(root / "Annotations" / f"{stem}.xml", voc_xml(boxes))
    text(root / "ImageSets" / "Main" / "trainval.txt", "a\nb\nc\nd\ne\n")


def voc_beside(root: Path) -> None:
    for split, images in BOXES.items():
        for stem, boxes in images.items():
            jpeg(root / split / f"{stem}.jpg")
            text(root / split / f"{stem}.xml", voc_xml(boxes))


def yolo_images_first(root: Path) -> None:
    text(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    for split, images in BOXES.items():
        for stem, boxes in images.items():
            jpeg(root / "images" / split / f"{stem}.jpg")
            if boxes:
                text(root / "labels" / split / f"{stem}.txt", yolo_lines(boxes))


def yolo_splits_first(root: Path) -> None:
    text(root / "data.yaml", "names:\n  0: cat\n  1: dog\n")
    for split, images in BOXES.items():
        for stem, boxes in images.items():
            jpeg(root / split / "images" / f"{stem}.jpg")
            text(root / split / "labels" / f"{stem}.txt", yolo_lines(boxes))


def yolo_lists(root: Path) -> None:
    text(root / "data.yaml", "train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat, dog]\n")
    for split, images in BOXES.items():
        text(root / f"{split}.txt", "".join(f"./images/{stem}.jpg\n" for stem in images))
        for stem, boxes in images.items():
            jpeg(root / "images" / f"{stem}.jpg")
            text(root / "labels" / f"{stem}.txt", yolo_lines(boxes))


def table(root: Path) -> None:
    lines = ["filename,split,xmin,ymin,xmax,ymax,class"]
    for split, images in BOXES.items():
        for stem, boxes in images.items():
            jpeg(root / "photos" / f"{stem}.jpg")
            lines += [f"photos/{stem}.jpg,{split},{x},{y},{right},{low},{label}" for label, x, y, right, low in boxes]
            if not boxes:
                lines.append(f"photos/{stem}.jpg,{split},,,,,")
    text(root / "boxes.csv", "\n".join(lines) + "\n")


BOX_LAYOUTS: dict[str, Callable[[Path], None]] = {
    "train.json beside train": coco_beside_splits,
    "instances_train2017.json": coco_2017,
    "_annotations.coco.json": coco_roboflow,
    "annotations of one folder": coco_one_folder,
    "JPEGImages, Annotations, ImageSets": voc_folders,
    "xml beside its image": voc_beside,
    "images/train and labels/train": yolo_images_first,
    "train/images and train/labels": yolo_splits_first,
    "train.txt of paths": yolo_lists,
    "a table of boxes": table,
}

MASKED: dict[str, list[str]] = {"train": ["a", "b", "c", "d"], "val": ["e"], "test": ["f"]}
COLOURS = {"sky": (128, 128, 128), "road": (128, 64, 128), "void": (0, 0, 0)}


def mask_numbers(stem: str) -> np.ndarray:
    """[30, 40] sky above, road below, a line that is ignored between; of its own for each name."""
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    row = 8 + ord(stem) % 8
    numbers[row:] = 1
    numbers[row] = 2
    return numbers


def index_mask(path: Path, stem: str, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask_numbers(stem))
    if mode == "P":
        picture.putpalette([value for colour in COLOURS.values() for value in colour])
    picture.save(path)


def coloured_mask(path: Path, stem: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.array(list(COLOURS.values()), dtype=np.uint8)
    Image.fromarray(colours[mask_numbers(stem)]).save(path)


def _masks(root: Path, images: str, masks: str, draw: Callable[[Path, str], None] = index_mask) -> None:
    for split, stems in MASKED.items():
        for stem in stems:
            jpeg(root / images.format(split) / f"{stem}.jpg")
            draw(root / masks.format(split) / f"{stem}.png", stem)


def masks_splits_first(root: Path) -> None:
    _masks(root, "{}/images", "{}/masks")
    text(root / "classes.txt", "sky\nroad\nvoid\n")


def masks_images_first(root: Path) -> None:
    _masks(root, "images/{}", "masks/{}", lambda path, stem: index_mask(path, stem, "P"))
    write_json(root / "classes.json", {"classes": ["sky", "road"], "ignore": "index 2 (unlabelled)"})


def masks_camvid(root: Path) -> None:
    _masks(root, "{}", "{}annot")
    text(root / "classes.txt", "0 sky\n1 road\n2 void\n")


def masks_voc(root: Path) -> None:
    for split, stems in MASKED.items():
        text(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            jpeg(root / "JPEGImages" / f"{stem}.jpg")
            index_mask(root / "SegmentationClass" / f"{stem}.png", stem, "P")
            coloured_mask(root / "SegmentationObject" / f"{stem}.png", stem)
    jpeg(root / "JPEGImages" / "z.jpg")
    text(root / "classes.txt", "sky\nroad\nvoid\n")


def masks_coloured(root: Path) -> None:
    _masks(root, "{}", "{}_labels", coloured_mask)
    lines = ["name,r,g,b", *(f"{name},{r},{g},{b}" for name, (r, g, b) in COLOURS.items())]
    text(root / "class_dict.csv", "\n".join(lines) + "\n")


MASK_LAYOUTS: dict[str, Callable[[Path], None]] = {
    "train/images and train/masks": masks_splits_first,
    "images/train and masks/train": masks_images_first,
    "train and trainannot": masks_camvid,
    "SegmentationClass": masks_voc,
    "colours and class_dict.csv": masks_coloured,
}
