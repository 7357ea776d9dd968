"""The user's folders for what outlives a working folder: the cache, and downloaded datasets."""

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from hpt.errors import DataError

CACHE_VARIABLE, DATA_VARIABLE = "HPTCTL_CACHE", "HPTCTL_DATA"


def cache_folder() -> Path:
    """The folder of decoded images and downloaded weights, all of which can be made again: `$HPTCTL_CACHE`, or the
    system's cache folder.

    Raises:
        DataError: this user has no home folder, as in some containers.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    if (found := _of_system(platformdirs.user_cache_path)) is None:
        raise DataError(
            "this user has no home folder to keep decoded images in",
            f"set {CACHE_VARIABLE} to a folder that can be written",
        )
    return found


def data_folder() -> Path:
    """The folder of the catalogue's datasets: `$HPTCTL_DATA`, or the system's folder for a user's data; without a home
    folder one in the cache."""
    if given := os.environ.get(DATA_VARIABLE):
        return Path(given).expanduser()
    return (_of_system(platformdirs.user_data_path) or cache_folder()) / "datasets"


def give_home() -> None:
    """Have a process whose user has no home folder live in `$HPTCTL_CACHE`, where that is set: MLflow and Matplotlib
    ask for one when they are imported. Where it cannot be written, Matplotlib at least keeps its fonts in the cache."""
    if not (given := os.environ.get(CACHE_VARIABLE)):
        return
    cache = Path(given).absolute()
    if _of_system(platformdirs.user_cache_path) is None:
        os.environ["HOME"] = str(cache)
    elif not os.access(Path.home(), os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))


def setting_of(path: str) -> str | None:
    """The environment variable that says where a file of these folders lies; None of any other file."""
    for variable, folder in ((CACHE_VARIABLE, cache_folder), (DATA_VARIABLE, data_folder)):
        try:
            place = folder()
        except DataError:
            continue
        # What cannot be made may be a folder above.
        if Path(path).is_relative_to(place) or place.is_relative_to(path):
            return variable
    return None


def _of_system(folder: Callable[[str], Path]) -> Path | None:
    try:
        return folder("hptctl")
    except RuntimeError:  # neither HOME nor an entry in the table of users
        return None
