"""A dataset that is known by name: what is said of it, where its files are, and how they get there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hpt.callbacks import Progress
from hpt.config import Config, DataConfig, Metric, Positive
from hpt.data import annotation_cache
from hpt.data.archive import Archive
from hpt.data.folder import Folder
from hpt.data.listing import ImageSource, Listing, Split
from hpt.data.remote import Place
from hpt.data.splits import SHARES
from hpt.errors import DataError
from hpt.files import shared_lock
from hpt.user_folders import data_folder

log = logging.getLogger("hpt.data")

Task = Literal["single-label", "multi-label"]
Channel = Annotated[float, Field(ge=0, le=1)]
RGB = tuple[Channel, Channel, Channel]
Splits = Annotated[str, Field(pattern=r"^(train|val|test)(\+(train|val|test))*$")]
"""One split, or several that were counted together, such as `train+val`."""
Cut = Annotated[float, Field(gt=0, lt=0.9)]
GotBy = Literal["run", "prepare", "person"]

METRICS: dict[Task, Metric] = {"single-label": "top1", "multi-label": "auroc"}
"""The headline metric of each task."""
AT_ONCE = 1000
"""The most megabytes that a run downloads by itself; a larger dataset waits until `prepare` is asked for it."""


class Description(Config):
    """What a row says of a dataset: the same fields in the catalogue and in the user's `catalog.toml`."""

    title: str = ""
    """The full name of the dataset."""
    domain: str = "own"
    """The kind of images, such as `aerial` or `medical`."""
    licence: str = "none stated"
    """The terms under which the images may be used."""
    page: str = "none"
    """The address of the publisher's page."""
    task: Task = "single-label"
    """Whether an image has one class or any number of them."""
    classes: Positive | None = None
    """The number of classes; None where it is that of the folders."""
    counts: dict[Splits, Positive] = Field(default={})
    """The published number of images of each split, or of several splits together, such as `train+val`."""
    shares: dict[Split, Cut] = Field(default={})
    """The shares of all images that val and test get where they are cut from train; by default 0.1 and 0.2."""
    mean: RGB | None = None
    """The published mean of each channel, in [0, 1]; None: it is computed from train and val. It needs `std`."""
    std: RGB | None = None
    """The published standard deviation of each channel, in [0, 1]; None: it is computed. It needs `mean`."""
    metric: Metric | None = None
    """The headline metric; None: the one of the task."""
    note: str = ""
    """Whose split it is, and whatever else differs from the publication."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if "train" in self.shares or sum(self.shares.values()) > 0.9:
            raise ValueError("shares are of val and test, and leave a tenth to train")
        return self

    @property
    def cut(self) -> Mapping[Split, Fraction]:
        """The exact shares of all images for the splits that are cut."""
        return SHARES | {split: Fraction(share).limit_denominator(1000) for split, share in self.shares.items()}


@dataclass(frozen=True)
class Absence:
    """What it would take to get a dataset that is not on this machine."""

    name: str
    missing: str
    """The first of its files that is missing."""
    by: GotBy
    """Who gets it: a run that needs it, by itself; `hptctl datasets prepare`, since it is large; or only a person."""
    megabytes: int
    """The approximate size of what is left to download; 0 where it is unknown."""


class CatalogRow(Description):
    """A dataset that is known by name: its description, and where its images come from."""

    name: str
    """What `--dataset` calls it."""
    read: Callable[..., Listing]
    """The reader of the publisher's layout: from the dataset's folder to what lies in it. That of a user's own row also
    takes `config`, which names the columns of tables, and `progress`."""
    folder: str = ""
    """The dataset's folder below the data root, where it is not called as the dataset is."""
    archives: tuple[Archive, ...] = ()
    """The publisher's files; none for a dataset that comes with this program."""
    keep: tuple[str, ...] = ()
    """Patterns of annotations that take long to read: the listing is kept until one of those files changes."""
    path: Place | None = None
    """Where the images of a row of the user's own lie: the folder, file or address."""
    source: Callable[[Path], ImageSource] = Folder
    """What reads the images of a listing that was kept."""

    @property
    def place(self) -> Path:
        """The dataset's folder."""
        return data_folder() / (self.folder or self.name)

    @property
    def megabytes(self) -> int:
        """The approximate size of all downloads; 0 where that of one is unknown."""
        return _megabytes(self.archives)

    @property
    def downloadable(self) -> bool:
        """Whether a program can download all of it."""
        return bool(self.archives) and all(archive.url for archive in self.archives)

    def missing(self) -> str | None:
        """The first of its files that is missing, as far as names tell without reading annotations."""
        return next((what for archive in self.archives if (what := archive.missing(self.place))), None)

    def ready(self) -> bool:
        """Whether the dataset is on this machine."""
        return self.missing() is None

    def absence(self) -> Absence | None:
        """What it would take to get the dataset, by looking at names alone; None where it is on this machine."""
        what = self.missing()
        if what is None:
            return None
        left = [a for a in self.archives if a.missing(self.place) is not None and not a.files(self.place)]
        by: GotBy = "prepare"
        if not all(archive.url for archive in left):
            by = "person"
        elif self.downloadable and 0 < self.megabytes <= AT_ONCE:
            by = "run"
        return Absence(self.name, what, by, _megabytes(left))

    def by_hand(self) -> list[str]:
        """The steps, in words, by which a person gets what is missing."""
        missing = [archive for archive in self.archives if archive.missing(self.place) is not None]
        names = ", ".join(archive.name for archive in missing)
        steps = [
            f"Open {self.page} and accept its terms ({self.licence}).",
            f"Download {names}, or the files there that hold " + ", ".join(p for a in missing for p in a.gives) + ".",
            f"Put them into {self.place}, packed or unpacked.",
        ]
        if any(archive.name.endswith(".rar") for archive in missing):
            steps[-1] = f"Unpack it in {self.place} (a .rar, which this program cannot read)."
        return [*steps, f"Run hptctl datasets prepare {self.name} again."]

    def listing(self, progress: Progress | None = None, config: DataConfig | None = None) -> Listing:
        """The dataset's images, downloaded first where that is little; `config` names the columns of a user's tables.

        Raises:
            DataError: files are missing, cannot be downloaded, or are damaged.
        """
        self.fetch(progress)
        if what := self.missing():
            raise self.not_here(what)
        if self.path is not None:
            return self._read(config=config, progress=progress)
        if not self.keep:
            return self._read()
        files = [path for pattern in self.keep for path in sorted(self.place.glob(pattern))]
        return annotation_cache.keep(self.name, files, self.source(self.place), self._read)

    def fetch(self, progress: Progress | None = None) -> None:
        """Download the dataset where it is missing and so small that a run does so by itself.

        Raises:
            DataError: as `prepare`.
        """
        absence = self.absence()
        if absence is not None and absence.by == "run":
            log.info("downloading %s to %s", self.name, self.place)
            self.prepare(progress)

    def prepare(self, progress: Progress | None = None) -> None:
        """Download what a program may download, and unpack what is not unpacked yet; one process at a time.

        Raises:
            DataError: a download failed or an archive is damaged; what has arrived so far is kept.
        """
        if self.missing() is None:
            return
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.place} cannot be created ({error.strerror})", "choose another --data-root"
            ) from None
        with shared_lock(self.place / ".preparing.lock"):
            for archive in self.archives:
                if archive.missing(self.place) is None:  # another process may have held the lock before
                    continue
                if archive.url is not None and not archive.files(self.place):
                    self._download(archive, progress)
                else:
                    archive.check(self.place)
                archive.unpack(self.place, progress)

    def not_here(self, what: str) -> DataError:
        """The line for a dataset of which a file is missing."""
        return DataError(
            f"{self.name} is not here: {what} is missing in {self.place}",
            f"hptctl datasets prepare {self.name} gets it"
            if self.downloadable
            else f"hptctl datasets prepare {self.name} says how to get it",
        )

    def _download(self, archive: Archive, progress: Progress | None) -> None:
        try:
            archive.download(self.place, progress)
        except DataError as error:
            by_hand = f"{error.fix or 'try again'}; or put {archive.name} into {self.place} ({self.page})"
            raise DataError(f"{self.name} is not here and its download failed: {error.what}", by_hand) from None

    def _read(self, **more: Any) -> Listing:
        try:
            return self.read(self.place, **more)
        except FileNotFoundError as error:
            raise self.not_here(str(error.filename)) from None


Found = CatalogRow | Place
"""What a dataset's name stands for: a row of the catalogue, or where images lie."""


def _megabytes(archives: Sequence[Archive]) -> int:
    sizes = [archive.megabytes for archive in archives]
    return sum(sizes) if all(sizes) else 0
