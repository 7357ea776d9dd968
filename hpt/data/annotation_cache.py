"""Listings that take long to read from their annotations, kept in the cache until an annotation file changes."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from hpt.data.listing import ImageSource, Listing
from hpt.files import write_text
from hpt.user_folders import cache_folder

log = logging.getLogger("hpt.data")

VERSION = 1
"""The version of the readers: raise it when one of them makes something else of the same files."""


def keep(name: str, files: Iterable[Path], source: ImageSource, read: Callable[[], Listing]) -> Listing:
    """What `read` gives, or what the cache kept of it while `files` stay the same.

    A file is compared by its size and time, and a folder also by those of the folders in it, which change when a file
    is added or removed. Gigabytes of JSON take 20 s and more to read, a kept listing of 120,000 images 0.5 s.
    """
    stamp = hashlib.sha256(f"{VERSION} {name}\n".encode())
    for path in files:
        for each in (path, *sorted(below for below in path.glob("*/") if path.is_dir())):
            facts = each.stat()
            stamp.update(f"{each}\0{facts.st_size} {facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    place = cache_folder() / "listings" / f"{name}-{stamp.hexdigest()[:16]}.json"
    try:
        return _load(place, source)
    except (FileNotFoundError, PermissionError):  # or another user's, who keeps it to himself
        log.info("%s: reading the annotations, once", name)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s); reading the annotations again", place, error)
    listing = read()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for old in place.parent.glob(f"{name}-{'?' * 16}.json"):
            old.unlink(missing_ok=True)
        write_text(place, json.dumps(_facts(listing), ensure_ascii=False))
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        log.info("%s: not kept for the next time (%s: %s)", name, error.strerror, error.filename)
    return listing


def _facts(listing: Listing) -> dict[str, object]:
    labels = listing.labels
    return {
        "names": listing.names,
        "splits": listing.splits,
        "classes": listing.classes,
        "groups": listing.groups,
        "labels": labels.tolist() if labels.ndim == 1 else [np.flatnonzero(row > 0).tolist() for row in labels],
        "several": labels.ndim == 2,
    }


def _load(place: Path, source: ImageSource) -> Listing:
    facts = json.loads(place.read_bytes())
    names, classes = tuple(facts["names"]), tuple(facts["classes"])
    if facts["several"]:
        labels = np.zeros((len(names), len(classes)), dtype=np.float32)
        for row, its in zip(labels, facts["labels"], strict=True):
            row[its] = 1
    else:
        labels = np.array(facts["labels"], dtype=np.int64)
    groups = None if facts["groups"] is None else tuple(facts["groups"])
    return Listing(source, names, tuple(facts["splits"]), labels, classes, groups)
