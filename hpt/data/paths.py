"""Folders, zip files and lists of images: which of these a path is, and what it holds."""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import list_folder, list_zip
from hpt.data.listing import Listing
from hpt.data.table import list_table
from hpt.data.table_lines import DELIMITERS
from hpt.errors import DataError


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
    raise DataError(
        f"{text} is neither a folder nor a zip file nor a list",
        f"name a folder of images, a .zip of one, or a list of images ({lists})",
    )


def list_path(path: Path) -> Listing:
    """The images of a folder, a zip file or a list.

    Raises:
        DataError: as `list_folder`, `list_zip` and `list_table`.
    """
    if path.is_dir():
        return list_folder(path)
    return list_zip(path) if path.suffix.lower() == ".zip" else list_table(path)


def name_of_path(path: Path) -> str:
    """What a folder, zip file or list is called in names and tables."""
    return path.name if path.is_dir() else path.stem
