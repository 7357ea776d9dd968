"""Folders outside the working folder."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Decoded images and downloaded weights, which can be made again: `$HPTCTL_CACHE`, or the user's cache folder."""
    given = os.environ.get("HPTCTL_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("hptctl")


def data_folder() -> Path:
    """Datasets of the catalogue: `$HPTCTL_DATA`, or the user's folder for data."""
    given = os.environ.get("HPTCTL_DATA")
    return Path(given).expanduser() if given else platformdirs.user_data_path("hptctl") / "datasets"
