"""Lists of images that runs leave out, beside the dataset that they belong to.

my-images.quarantine.csv      beside my-images/, my-images.zip or my-images.csv; in the data root for a name
name,reason                   written by `hptctl datasets check --quarantine`, or by hand
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hpt.data.paths import name_of_path
from hpt.data.row import CatalogRow
from hpt.data.splits import Indices
from hpt.errors import DataError
from hpt.files import write_text
from hpt.user_folders import data_folder

log = logging.getLogger("hpt.data")

HEADER = ["name", "reason"]


def place(found: CatalogRow | Path) -> Path:
    """Where the list of a dataset is, or would be."""
    if isinstance(found, CatalogRow):
        return data_folder() / f"{found.name}.quarantine.csv"
    return found.with_name(f"{name_of_path(found)}.quarantine.csv")


def read(path: Path) -> dict[str, str]:
    """The reason by name; empty where there is no list.

    Raises:
        DataError: it is no such list.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the quarantine list {path} cannot be read: {error}", "mend or remove it") from None
    if header != HEADER or any(len(row) != len(HEADER) for row in rows if row):
        raise DataError(f"the quarantine list {path} has not the columns {','.join(HEADER)}", "mend or remove it")
    return {row[0]: row[1] for row in rows if row}


def write(path: Path, reasons: Mapping[str, str]) -> None:
    """A list, atomically.

    Raises:
        DataError: it cannot be written there.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *sorted(reasons.items())])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text.getvalue())
    except OSError as error:
        raise DataError(f"the quarantine list {path} cannot be written: {error.strerror}", "copy the images") from None


def apply(
    name: str, names: Sequence[str], indices: Mapping[str, Indices], reasons: Mapping[str, str]
) -> tuple[dict[str, Indices], dict[str, str]]:
    """The splits without what a list names, and those of its reasons that name an image."""
    out = np.array([image in reasons for image in names], dtype=np.bool_)
    here = {names[i]: reasons[names[i]] for i in np.flatnonzero(out).tolist()}
    log.info("%s: its quarantine list leaves %d of %d images out", name, len(here), len(names))
    return {split: rows[~out[rows]] for split, rows in indices.items()}, here
