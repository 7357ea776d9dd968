"""BDD100K: one JSON file of frames for each split, each with the weather among its attributes.

    bdd100k/images/100k/train/0000f77c-6257be58.jpg, val/...
    bdd100k/labels/bdd100k_labels_images_train.json, ..._val.json     [{"name": ..., "attributes": {"weather": ...}}]

Layout: https://github.com/ucbdrive/bdd-data/blob/master/doc/format.md.
"""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged, read_json

WEATHER = ("clear", "foggy", "overcast", "partly cloudy", "rainy", "snowy")
"""Beside "undefined", whose images are left out: the published six classes."""
SETS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "test"))
"""The test set's attributes are not published, so the official val is our test, and val is cut from train."""


def read(folder: Path) -> Listing:
    """The frames whose weather is known. Each comes from a video of its own."""
    images: dict[str, tuple[Split, str | None]] = {}
    for name, split in SETS:
        path = folder / "bdd100k" / "labels" / f"bdd100k_labels_images_{name}.json"
        try:
            for frame in read_json(path):
                weather = frame["attributes"]["weather"]
                if weather in WEATHER:
                    images[f"bdd100k/images/100k/{name}/{frame['name']}"] = (split, weather)
                elif weather != "undefined":
                    raise damaged(path, f"{frame['name']} has the weather '{weather}'")
        except (KeyError, TypeError) as error:
            raise damaged(path, f"no {error}" if isinstance(error, KeyError) else error) from None
    return Listing.single_label(Folder(folder), images, WEATHER)
