"""DomainNet: a zip file and two lists for each domain.

    clipart/aircraft_carrier/clipart_001_000001.jpg
    clipart_train.txt, clipart_test.txt     `clipart/aircraft_carrier/clipart_001_000001.jpg 0`

Layout: https://ai.bu.edu/M3SDA/ (the cleaned version) and tensorflow/datasets domainnet.py.
"""

from __future__ import annotations

from pathlib import Path

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged, read_words


def read(folder: Path, domain: str) -> Listing:
    """The official train and test of a domain; its classes in the order of their numbers."""
    images: dict[str, tuple[Split, str | None]] = {}
    numbers: dict[str, int] = {}
    for split in ("train", "test"):
        path = folder / f"{domain}_{split}.txt"
        for words in read_words(path):
            name, number = words[0], words[-1]
            parts = name.split("/")
            if len(words) != 2 or len(parts) != 3 or not number.isdecimal():
                raise damaged(path, f"'{' '.join(words)}' is not a path below {domain}/ and a number")
            if numbers.setdefault(parts[1], int(number)) != int(number):
                raise damaged(path, f"{parts[1]} is class {numbers[parts[1]]} and {number}")
            images[name] = ("test" if split == "test" else "train", parts[1])
    return Listing.single_label(Folder(folder), images, classes=sorted(numbers, key=numbers.__getitem__))
