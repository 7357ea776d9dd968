"""The datasets that are known by name: one row each."""

from __future__ import annotations

import http.client
import logging
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpt.data import embedded
from hpt.data.folder import Folder
from hpt.data.listing import Listing, Split
from hpt.errors import DataError
from hpt.places import data_folder

log = logging.getLogger("hpt.data")

Task = Literal["single-label", "multi-label"]
METRICS: dict[Task, str] = {"single-label": "top1", "multi-label": "auroc"}
"""The headline metric of a task."""
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """A dataset of the catalogue."""

    name: str
    title: str
    domain: str
    licence: str
    page: str
    list_images: Callable[[Path], Listing]
    """What lies under the data root; FileNotFoundError where the dataset is not there."""
    how_to_get: str = ""
    """Which files to put where, finishing "put ..."; `{root}` is the data root."""
    download: Callable[[Path], None] | None = None
    task: Task = "single-label"
    mean: RGB | None = None
    """Published normalisation, with `std`; None: computed from train and val."""
    std: RGB | None = None
    metric: str | None = None
    """The headline metric; None: the task's."""

    def ready(self) -> bool:
        """Whether the dataset is on this machine."""
        try:
            self.list_images(data_folder())
        except (FileNotFoundError, DataError):
            return False
        return True

    def listing(self) -> Listing:
        """The dataset's images, downloaded first where that is possible and needed.

        Raises:
            DataError: the files are not there and cannot be downloaded, or are damaged.
        """
        root = data_folder()
        try:
            return self.list_images(root)
        except FileNotFoundError as error:
            missing = error.filename
        fix = f"put {self.how_to_get.format(root=root)} (see {self.page})"
        if self.download is None:
            raise DataError(f"{self.name} is not here: {missing} is missing", fix)
        log.info("downloading %s to %s", self.name, root)
        try:
            self.download(root)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise DataError(f"{self.name} is not here and its download failed: {reason}", fix) from None
        except RuntimeError as error:  # torchvision's word for a wrong checksum
            raise DataError(f"{self.name} was not downloaded well: {error}", f"try again, or {fix}") from None
        return self.list_images(root)


def find(name: str) -> Row | None:
    """The row of a name; `shapes@N` is `shapes` with N images.

    Raises:
        DataError: a number of images that is none, or on a row that takes none.
    """
    plain, at, count = name.partition("@")
    row = CATALOG.get(plain)
    if row is None or not at:
        return row
    if row.name != "shapes":
        raise DataError(f"{row.name} has a fixed number of images", f"use --dataset {row.name}")
    if not count.isdecimal() or not 1 <= int(count) <= 10_000_000:
        raise DataError(f"'{name}' asks for no number of images", "write for example shapes@500")
    return replace(row, name=name, list_images=lambda _: embedded.shapes(int(count)))


def _flowers(root: Path) -> Listing:
    """Torchvision's layout: `setid.mat` has the official split, `imagelabels.mat` the classes, both counted
    from 1."""
    folder = root / "flowers-102"
    (folder / "jpg").stat()
    labels = _read_mat(folder / "imagelabels.mat", "labels")
    images: dict[str, tuple[Split, str | None]] = {}
    splits: tuple[tuple[Split, str], ...] = (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    for split, key in splits:
        for number in _read_mat(folder / "setid.mat", key):
            if not 1 <= number <= len(labels):
                raise DataError(f"{folder} is damaged: setid.mat names image {number} of {len(labels)}")
            images[f"jpg/image_{number:05d}.jpg"] = (split, f"{labels[number - 1]:03d}")
    return Listing.single_label(Folder(folder), images, classes=[f"{i:03d}" for i in range(1, 103)])


def _download_flowers(root: Path) -> None:
    from torchvision.datasets import Flowers102

    Flowers102(root, download=True)


def _read_mat(path: Path, key: str) -> npt.NDArray[np.int64]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path.stat()  # loadmat tries other names, and its error has none
    try:
        return np.asarray(loadmat(path)[key]).ravel().astype(np.int64)
    except (MatReadError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path} is damaged: {error}", "delete it, so that it is downloaded again") from None


CATALOG: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            name="digits",
            title="Optical recognition of handwritten digits",
            domain="drawn",
            licence="CC BY 4.0",
            page="https://archive.ics.uci.edu/dataset/80",
            list_images=lambda _: embedded.digits(),
        ),
        Row(
            name="shapes",
            title="Eight shapes, drawn by this program",
            domain="drawn",
            licence="that of this program",
            page="none",
            list_images=lambda _: embedded.shapes(),
        ),
        Row(
            name="flowers",
            title="Oxford 102 Flowers",
            domain="natural",
            licence="none stated; offered for research",
            page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            list_images=_flowers,
            download=_download_flowers,
            how_to_get="102flowers.tgz's folder jpg/, imagelabels.mat and setid.mat into {root}/flowers-102",
            mean=(0.4355, 0.3777, 0.2880),
            std=(0.2970, 0.2459, 0.2705),
        ),
    )
}
