"""Lists of images that runs leave out, beside the dataset that they belong to.

my-images.quarantine.csv      beside my-images/, my-images.zip or my-images.csv; in the data root for a name or address
name,reason                   written by `hptctl datasets check --quarantine`, or by hand
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hpt.data.paths import name_of_path
from hpt.data.remote import Address
from hpt.data.row import CatalogRow, Found
from hpt.data.splits import Indices
from hpt.errors import DataError
from hpt.files import write_text
from hpt.user_folders import data_folder

log = logging.getLogger("hpt.data")

HEADER = ["name", "reason"]


def place(found: Found) -> Path:
    """The file of a dataset's list, whether it exists or not."""
    if isinstance(found, CatalogRow):
        return data_folder() / f"{found.name}.quarantine.csv"
    if isinstance(found, Address):  # of which several may end alike
        which = hashlib.sha256(found.url.encode()).hexdigest()[:8]
        return data_folder() / f"{found.name}-{which}.quarantine.csv"
    return found.with_name(f"{name_of_path(found)}.quarantine.csv")


def read(path: Path) -> dict[str, str]:
    """The reason for each name; empty where there is no list.

    Raises:
        DataError: the file is not a quarantine list.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the quarantine list {path} cannot be read: {error}", "correct or remove it") from None
    if header != HEADER or any(len(row) != len(HEADER) for row in rows if row):
        raise DataError(
            f"the quarantine list {path} does not have the columns {','.join(HEADER)}", "correct or remove it"
        )
    return {row[0]: row[1] for row in rows if row}


def write(path: Path, reasons: Mapping[str, str]) -> None:
    """Write a list, atomically.

    Raises:
        DataError: the file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *sorted(reasons.items())])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text.getvalue())
    except OSError as error:
        raise DataError(
            f"the quarantine list {path} cannot be written: {error.strerror}",
            "copy the images to a folder that can be written to",
        ) from None


def apply(
    name: str, names: Sequence[str], indices: Mapping[str, Indices], reasons: Mapping[str, str]
) -> tuple[dict[str, Indices], dict[str, str]]:
    """The splits without the images that a list names, and the reasons for those that exist."""
    out = np.array([image in reasons for image in names], dtype=np.bool_)
    here = {names[i]: reasons[names[i]] for i in np.flatnonzero(out).tolist()}
    log.info("%s: its quarantine list leaves %d of %d images out", name, len(here), len(names))
    return {split: rows[~out[rows]] for split, rows in indices.items()}, here
