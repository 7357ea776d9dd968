"""What `--dataset` names: a row of the catalogue or of the user's own, a folder, a zip file, a list, or packed files,
at a path or an address."""

from __future__ import annotations

import os
from pathlib import Path

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data import embedded
from hpt.data.catalog import CATALOG
from hpt.data.listing import Listing
from hpt.data.own_rows import own_rows
from hpt.data.paths import find_path, list_path, name_of_path
from hpt.data.remote import Address, Place
from hpt.data.row import Absence, CatalogRow, Found
from hpt.errors import DataError, did_you_mean


def rows() -> dict[str, CatalogRow]:
    """The catalogue and the user's own rows, by name.

    Raises:
        DataError: the user's file is wrong.
    """
    return CATALOG | own_rows(taken=CATALOG)


def find_row(name: str) -> CatalogRow | None:
    """The row of a name; `shapes@N` is `shapes` with N images.

    Raises:
        DataError: what follows the @ is not a number of images, or the row takes none; the user's rows are wrong.
    """
    plain, at, count = name.partition("@")
    row = CATALOG.get(plain) or rows().get(plain)
    if row is None or not at:
        return row
    if row.name != "shapes":
        raise DataError(f"{row.name} has a fixed number of images", f"use --dataset {row.name}")
    if not count.isdecimal() or not 1 <= int(count) <= 10_000_000:
        raise DataError(f"'{name}' does not ask for a number of images", "write for example shapes@500")
    return row.model_copy(update={"name": name, "read": lambda _: embedded.shapes(int(count))})


def find(dataset: str) -> Found:
    """The row of the catalogue, or the place, that a dataset's name stands for.

    A name of the catalogue wins over a folder of that name; `./name` is always the folder.

    Raises:
        DataError: there is nothing of that name.
    """
    is_path = dataset.startswith((".", "~")) or any(mark in dataset for mark in ("/", os.sep))
    found = (None if is_path else find_row(dataset)) or find_path(dataset)
    if found is not None:
        return found
    names = rows()
    known = ", ".join(names)
    if "\\" in dataset:
        raise DataError(
            f"no such folder, zip file or list: {dataset}", f"write it with /: {dataset.replace(chr(92), '/')}"
        )
    if is_path or Path(dataset).suffix:
        raise DataError(
            f"no such folder, zip file or list: {dataset}",
            f"check the path; if it has moved, say where it lies now by -d (--dataset); or choose one of {known}",
        )
    raise DataError(
        f"unknown dataset '{dataset}'{did_you_mean(dataset, names)}, and no such folder",
        f"choose one of {known}, or name a folder, a zip file, a list, shards or tables",
    )


def name_of(found: Found) -> str:
    """What a dataset is called in names and tables: its name in the catalogue, or that of the folder or file."""
    return found.name if isinstance(found, CatalogRow) else name_of_path(found)


def place_of(found: Found) -> Place:
    """Where a dataset's images lie, or would lie: the folder or address of a row, or the place itself."""
    if not isinstance(found, CatalogRow):
        return found
    return found.path if isinstance(found.path, Address) else found.place


def absence_of(found: Found) -> Absence | None:
    """What it would take to get a dataset, by looking at names alone; None where it is on this machine."""
    return found.absence() if isinstance(found, CatalogRow) else None


def published_sizes(found: Found) -> dict[str, int]:
    """The published number of images of each split, 0 where it is unknown; train and val together count as train."""
    counts = found.counts if isinstance(found, CatalogRow) else {}
    return {
        "train": counts.get("train", 0) or counts.get("train+val", 0),
        "val": counts.get("val", 0),
        "test": counts.get("test", 0),
    }


def list_images(found: Found, progress: Progress | None = None, config: DataConfig | None = None) -> Listing:
    """What a row or a place holds, before any image is read; `config` names the columns of tables.

    Raises:
        DataError: as `CatalogRow.listing` and `list_path`.
    """
    return found.listing(progress, config) if isinstance(found, CatalogRow) else list_path(found, config, progress)
