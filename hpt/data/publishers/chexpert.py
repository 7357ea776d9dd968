"""CheXpert: a CSV file for each split, beside folders of patients and studies.

    CheXpert-v1.0-small/train.csv, valid.csv     Path,Sex,...,Atelectasis,...: 1.0, 0.0, -1.0 (uncertain) or blank
    CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg

Layout: https://stanfordmlgroup.github.io/competitions/chexpert/ and tensorflow/datasets chexpert.py.
"""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged, read_csv

CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five of the competition."""
MARKS = {"1.0": True, "1": True, "0.0": False, "0": False, "-1.0": False, "-1": False, "": False}
"""What a cell may contain, and whether it means that the finding is there; uncertain and blank count as 0."""
SETS: tuple[tuple[str, Split], ...] = (("train", "train"), ("valid", "test"))
"""The official validation set, labelled by radiologists, is our test, and val is cut from train by patient."""


def read(folder: Path) -> Listing:
    """Either size of the images, frontal and lateral."""
    tops = sorted(path.parent for path in folder.glob("CheXpert-v1.0*/train.csv"))
    if not tops:
        raise FileNotFoundError(2, "", str(folder / "CheXpert-v1.0-small" / "train.csv"))
    top = tops[-1]  # the small images where both sizes are there
    images: dict[str, tuple[Split, list[str]]] = {}
    for name, split in SETS:
        path = top / f"{name}.csv"
        for row in read_csv(path):
            try:
                place = row["Path"].partition("/")[2]  # the folder may have been renamed
                images[f"{top.name}/{place}"] = (split, [label for label in CLASSES if MARKS[row[label]]])
            except (KeyError, AttributeError) as error:
                raise damaged(path, f"a line without or with another {error}") from None
    return Listing.multi_label(Folder(folder), images, CLASSES).grouped(lambda name: name.split("/")[2])
