"""Folders, zip files and lists of images: which of these a path is, and what it holds."""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import is_box_table, list_box_table, list_folder, list_zip
from hpt.data.listing import Listing
from hpt.data.table import list_table
from hpt.data.table_text import DELIMITERS
from hpt.errors import DataError

_UNPACK = "unpack it, and name the folder"
_AS_CSV = "write the paths and labels into a .csv, and name that"
_OTHERS = (
    ((".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), _UNPACK),
    ((".xlsx", ".xls", ".ods"), "save the sheet as .csv, and name that"),
    ((".json", ".jsonl", ".xml", ".yaml", ".parquet", ".pkl", ".npz", ".npy", ".h5", ".tfrecord"), _AS_CSV),
    ((".001", ".z01"), "join the parts into one .zip, and name that"),
)
"""What to do about files that people have, by their endings."""


def find_path(text: str) -> Path | None:
    """The folder, zip file or list that a text names; None where nothing lies there.

    Raises:
        DataError: a file of another kind.
    """
    path = Path(text).expanduser()
    if not text or not path.exists():
        return None
    suffix = path.suffix.lower()
    if path.is_dir() or (suffix == ".zip" and path.is_file()):
        return path.resolve()
    if suffix in DELIMITERS and path.is_file():
        return path.absolute()  # a link to a list is not followed: paths in it are relative to where the link lies
    lists = ", ".join(DELIMITERS)
    known = next((fix for suffixes, fix in _OTHERS if suffix in suffixes), None)
    raise DataError(
        f"{text} is neither a folder nor a zip file nor a list",
        known or f"name a folder of images, a .zip of one, or a list of images ({lists})",
    )


def list_path(path: Path) -> Listing:
    """The images of a folder, a zip file or a list.

    Raises:
        DataError: as `list_folder`, `list_zip` and `list_table`.
    """
    if path.is_dir():
        return list_folder(path)
    if path.suffix.lower() == ".zip":
        return list_zip(path)
    return list_box_table(path) if is_box_table(path) else list_table(path)


def name_of_path(path: Path) -> str:
    """What a folder, zip file or list is called in names and tables."""
    return path.name if path.is_dir() else path.stem
