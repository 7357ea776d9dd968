"""Folders, zip files, lists and packed files of images: which of these a text names, and what it holds."""

from __future__ import annotations

from hpt.callbacks import Progress
from hpt.config import DataConfig
from hpt.data.folder import is_box_table, list_box_table, list_folder, list_zip
from hpt.data.listing import Listing
from hpt.data.packed import is_packed, list_packed, name_of_packed, packed_place
from hpt.data.remote import Address, Place, path_of
from hpt.data.table import list_table
from hpt.data.table_text import DELIMITERS
from hpt.errors import DataError

_UNPACK = "unpack it, and name the folder"
_AS_CSV = "write the paths and labels into a .csv, and name that"
_OTHERS = (
    ((".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), _UNPACK),
    ((".xlsx", ".xls", ".ods"), "save the sheet as .csv, and name that"),
    ((".json", ".jsonl", ".xml", ".yaml", ".pkl", ".npz", ".npy", ".h5", ".tfrecord"), _AS_CSV),
    ((".001", ".z01"), "join the parts into one .zip, and name that"),
)
"""What to do about files that people have, by their endings."""


def find_path(text: str) -> Place | None:
    """The folder, zip file, list, packed files or address that a text names; None where nothing lies there.

    Raises:
        DataError: a file of another kind, or a pattern that fits none.
    """
    if text and (packed := packed_place(text)) is not None:
        return packed
    path = path_of(text)
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
        known or f"name a folder of images, a .zip of one, a list of images ({lists}), or shards or tables of them",
    )


def list_path(path: Place, config: DataConfig | None = None, progress: Progress | None = None) -> Listing:
    """The images of a folder, a zip file, a list or packed files; `config` names the columns of tables.

    Raises:
        DataError: as `list_folder`, `list_zip`, `list_table` and `list_packed`.
    """
    if isinstance(path, Address) or is_packed(path):
        return list_packed(path, config, progress)
    if path.is_dir():
        return list_folder(path)
    if path.suffix.lower() == ".zip":
        return list_zip(path)
    return list_box_table(path) if is_box_table(path) else list_table(path)


def name_of_path(path: Place) -> str:
    """What a place is called in names and tables."""
    if isinstance(path, Address) or is_packed(path):
        return name_of_packed(path)
    return path.name if path.is_dir() else path.stem
