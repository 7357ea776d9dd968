"""The user's folders for what outlives a working folder: the cache, and downloaded datasets."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder of decoded images and downloaded weights, all of which can be made again: `$HPTCTL_CACHE`, or the
    system's cache folder."""
    given = os.environ.get("HPTCTL_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("hptctl")


def data_folder() -> Path:
    """The folder of the catalogue's datasets: `$HPTCTL_DATA`, or the system's folder for a user's data."""
    given = os.environ.get("HPTCTL_DATA")
    return Path(given).expanduser() if given else platformdirs.user_data_path("hptctl") / "datasets"
