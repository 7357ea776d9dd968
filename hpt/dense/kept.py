"""Boxes that take long to read, kept in the cache until an annotation file changes.

COCO's 450 MB of JSON take 20 s and gigabytes of memory in each process that reads them; what is kept, less than 1 s.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hpt.data.annotation_files import Head
from hpt.data.listing import ImageSource, Note
from hpt.dense.annotated_boxes import AnnotatedBoxes, ImageBoxes
from hpt.files import replacing
from hpt.user_folders import cache_folder

log = logging.getLogger("hpt.data")

VERSION = 1
"""The version of the readers: raise it when one of them makes something else of the same files."""
MANY, LONG = 2000, 16 << 20
"""Boxes are kept where there are so many files, or so many bytes in one."""


def are_long(files: Sequence[str], head: Head) -> bool:
    """Whether reading annotation files takes so long that their boxes should be kept."""
    return len(files) >= MANY or sum(len(head(name, LONG)) for name in files[:16]) >= LONG


def keep(
    name: str, source: ImageSource, files: Sequence[str], images: Collection[str], read: Callable[[], AnnotatedBoxes]
) -> AnnotatedBoxes:
    """What `read` gives, or what the cache kept of it while the files and the names of the images stay the same."""
    stamp = hashlib.sha256(f"{VERSION} {name}\n".encode("utf-8", "surrogateescape"))
    for text in (*source.stamp(sorted(files)), *sorted(images)):
        stamp.update(text.encode("utf-8", "surrogateescape") + b"\n")
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    place = cache_folder() / "listings" / f"boxes-{key}-{stamp.hexdigest()[:16]}.npz"
    try:
        with place.open("rb") as file:
            return _load(file)
    except FileNotFoundError:
        log.info("%s: reading the boxes, once", name)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s); reading the boxes again", place, error)
    boxes = read()
    place.parent.mkdir(parents=True, exist_ok=True)
    for old in place.parent.glob(f"boxes-{key}-{'?' * 16}.npz"):
        old.unlink(missing_ok=True)
    with replacing(place) as part:
        _save(part, boxes)
    return boxes


def _save(path: Path, boxes: AnnotatedBoxes) -> None:
    all_of = list(boxes.images.values())
    facts = {
        "names": list(boxes.images),
        "classes": boxes.classes,
        "notes": [(note.text, note.doubtful) for note in boxes.notes],
        "sizes": [each.size for each in all_of],
        "shares": [each.shares for each in all_of],
    }
    with path.open("wb") as file:
        np.savez(
            file,
            facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
            counts=np.array([len(each.labels) for each in all_of], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4)), *(each.boxes for each in all_of)]),
            labels=np.concatenate([np.zeros(0, dtype=np.int64), *(each.labels for each in all_of)]),
            difficult=np.concatenate([np.zeros(0, dtype=np.bool_), *(each.difficult for each in all_of)]),
        )


def _load(file: BinaryIO) -> AnnotatedBoxes:
    with np.load(file, allow_pickle=False) as saved:
        facts = json.loads(saved["facts"].tobytes())
        ends = np.cumsum(saved["counts"])[:-1]
        boxes, labels, difficult = (np.split(saved[name], ends) for name in ("boxes", "labels", "difficult"))
    sizes = [tuple(size) if size is not None else None for size in facts["sizes"]]
    rows = zip(boxes, labels, difficult, sizes, facts["shares"], strict=True)
    images = dict(zip(facts["names"], (ImageBoxes(*row) for row in rows), strict=True))
    notes = [Note(text, doubtful) for text, doubtful in facts["notes"]]
    return AnnotatedBoxes(tuple(facts["classes"]), images, notes)
