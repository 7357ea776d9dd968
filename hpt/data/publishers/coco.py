"""COCO 2014: one JSON file of all objects for each split.

    train2014/COCO_train2014_000000000009.jpg, val2014/...
    annotations/instances_train2014.json, instances_val2014.json

Layout: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged, read_json

SETS: tuple[tuple[str, Split], ...] = (("train2014", "train"), ("val2014", "test"))
"""The test set's objects are not published, so the official val is our test, and val is cut from train."""


def read(folder: Path) -> Listing:
    """Which of the 80 categories each image has an object of, crowds included; some have none."""
    images: dict[str, tuple[Split, set[str]]] = {}
    classes: dict[int, str] = {}
    for name, split in SETS:
        path = folder / "annotations" / f"instances_{name}.json"
        facts = read_json(path)
        try:
            classes |= {category["id"]: category["name"] for category in facts["categories"]}
            found: dict[int, set[str]] = {image["id"]: set() for image in facts["images"]}
            for thing in facts["annotations"]:
                found[thing["image_id"]].add(classes[thing["category_id"]])
            for image in facts["images"]:
                images[f"{name}/{image['file_name']}"] = (split, found[image["id"]])
        except (KeyError, TypeError) as error:
            raise damaged(path, f"no {error}" if isinstance(error, KeyError) else error) from None
    return Listing.multi_label(Folder(folder), images, (classes[number] for number in sorted(classes)))
