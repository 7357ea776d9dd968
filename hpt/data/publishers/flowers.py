"""Oxford 102 Flowers: MATLAB files beside a folder of images.

    jpg/image_00001.jpg
    imagelabels.mat      `labels`: the class of each image, from 1
    setid.mat            `trnid`, `valid`, `tstid`: the official split by image, from 1

Layout: https://www.robots.ox.ac.uk/~vgg/data/flowers/102/README.txt and torchvision.datasets.Flowers102.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.data.publishers.annotations import damaged
from hpt.errors import DataError

SPLITS: tuple[tuple[Split, str], ...] = (("train", "trnid"), ("val", "valid"), ("test", "tstid"))


def read(folder: Path) -> Listing:
    """The official split; classes are called by their numbers, since the publisher names none."""
    labels = _read_mat(folder / "imagelabels.mat", "labels")
    images: dict[str, tuple[Split, str | None]] = {}
    for split, key in SPLITS:
        for number in _read_mat(folder / "setid.mat", key):
            if not 1 <= number <= len(labels):
                raise DataError(f"{folder} is damaged: setid.mat names image {number} of {len(labels)}")
            images[f"jpg/image_{number:05d}.jpg"] = (split, f"{labels[number - 1]:03d}")
    return Listing.single_label(Folder(folder), images, classes=[f"{i:03d}" for i in range(1, 103)])


def _read_mat(path: Path, key: str) -> npt.NDArray[np.int64]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path.stat()  # loadmat tries other names, and its error has none
    try:
        return np.asarray(loadmat(path)[key]).ravel().astype(np.int64)
    except (MatReadError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise damaged(path, error) from None
