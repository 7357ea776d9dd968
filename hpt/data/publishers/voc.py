"""Pascal VOC 2007 and 2012: for each class a list of images with 1 (there), -1 (not) or 0 (only difficult ones).

    VOCdevkit/VOC2007/JPEGImages/000001.jpg
    VOCdevkit/VOC2007/ImageSets/Main/aeroplane_train.txt     `000012 -1`; also _val, and _test of 2007

Layout: the development kits' documentation, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html,
section 4.1.1 (classification image sets). They say what the XML files of all objects say, in 100 files, not 27,000.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged, read_words

CLASSES = tuple(
    re.findall(
        r"\w+",
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
        "sheep sofa train tvmonitor",
    )
)
SETS: tuple[tuple[str, Split], ...] = (
    ("VOC2007", "train"),
    ("VOC2007", "val"),
    ("VOC2007", "test"),
    ("VOC2012", "train"),
    ("VOC2012", "val"),
)
"""The test set of 2012 has no published labels."""


def read(folder: Path) -> Listing:
    """The official splits of both years; a class with difficult objects only counts as absent."""
    there: dict[str, tuple[Split, set[str]]] = {}
    for year, split in SETS:
        lists = folder / "VOCdevkit" / year / "ImageSets" / "Main"
        for label in CLASSES:
            path = lists / f"{label}_{split}.txt"
            for words in read_words(path):
                if len(words) != 2 or words[1] not in ("1", "0", "-1"):
                    raise damaged(path, f"'{' '.join(words)}' is not an image and 1, 0 or -1")
                _, found = there.setdefault(f"VOCdevkit/{year}/JPEGImages/{words[0]}.jpg", (split, set()))
                if words[1] == "1":
                    found.add(label)
    return Listing.multi_label(Folder(folder), there, CLASSES)
