"""Class folders: NWPU-RESISC45, UC Merced and the children's chest x-rays.

    NWPU-RESISC45/airplane/airplane_001.jpg
    UCMerced_LandUse/Images/agricultural/agricultural00.tif
    chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg     or BACTERIA-1008087-0001.jpeg, VIRUS-...
    chest_xray/test/NORMAL/IM-0001-0001.jpeg               or NORMAL2-IM-1427-0001.jpeg, NORMAL-1003233-0001.jpeg

Layouts: tensorflow/datasets resisc45.py and uc_merced.py; https://data.mendeley.com/datasets/rscbjbr9sj, and Kaggle's
copy of it (paultimothymooney/chest-xray-pneumonia), whose `val/` has 16 images.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hpt.data.folder import list_folder
from hpt.data.listing import Listing

PATIENT = re.compile(r"person\d+|(?:NORMAL\d*-)?IM-\d+|(?:BACTERIA|VIRUS|NORMAL)-\d+")
"""The patient in the name of a child's x-ray. Numbers are counted anew for normal and ill children."""


def resisc(folder: Path) -> Listing:
    """No split is published."""
    return list_folder(folder / "NWPU-RESISC45")


def ucmerced(folder: Path) -> Listing:
    """No split is published."""
    return list_folder(folder / "UCMerced_LandUse" / "Images")


def chest_xray_kids(folder: Path) -> Listing:
    """The official train and test; the 16 images that some copies have as val are train's, from which val is cut by
    patient."""
    found = list_folder(folder / "chest_xray")
    joined = replace(found, splits=tuple("test" if split == "test" else "train" for split in found.splits))
    return joined.grouped(_patient)


def _patient(name: str) -> str:
    path = PurePosixPath(name)
    known = PATIENT.match(path.stem)
    return f"{path.parent.name}/{known[0] if known else path.stem}"
