"""A dataset that is known by name: where its files are, how they get there, and what is published of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from filelock import FileLock

from hpt.callbacks import Progress
from hpt.data import annotation_cache as kept
from hpt.data import fetch, unpack
from hpt.data.fetch import Checksum
from hpt.data.folder import Folder
from hpt.data.listing import Listing, Source, Split
from hpt.data.splits import SHARES
from hpt.errors import DataError
from hpt.user_folders import data_folder

log = logging.getLogger("hpt.data")

Task = Literal["single-label", "multi-label"]
RGB = tuple[float, float, float]
AT_ONCE = 1000
"""A run that needs a dataset of at most so many megabytes downloads it; for more, `prepare` must be asked."""


@dataclass(frozen=True)
class Archive:
    """A file that a publisher offers."""

    name: str
    """A pattern where there may be several of them, which only a person gets."""
    gives: tuple[str, ...]
    """What is there once it is unpacked: patterns relative to the dataset's folder. Its annotations come first."""
    url: str | None = None
    """None: only a person may get it, since the licence wants a signature or the address is no plain file."""
    megabytes: int = 0
    """About, for the person who waits; 0: not known."""
    size: int | None = None
    """Bytes, where published."""
    checksum: Checksum | None = None
    """Where published."""

    def missing(self, folder: Path) -> str | None:
        """The first of what it gives that is not there."""
        if next(folder.glob(unpack.unfinished(Path(self.name)).name), None):
            return f"{self.name}, whose unpacking was broken off,"
        return next((pattern for pattern in self.gives if next(folder.glob(pattern), None) is None), None)


@dataclass(frozen=True)
class Row:
    """A dataset of the catalogue."""

    name: str
    title: str
    domain: str
    licence: str
    page: str
    """The publisher's."""
    read: Callable[[Path], Listing]
    """From the dataset's folder to what lies in it."""
    folder: str = ""
    """Below the data root; empty: the name."""
    archives: tuple[Archive, ...] = ()
    """Empty: it needs no files."""
    keep: tuple[str, ...] = ()
    """Annotations, where reading them takes long: the listing is then kept until they change."""
    source: Callable[[Path], Source] = Folder
    """Of the images of a listing that is kept."""
    task: Task = "single-label"
    classes: int | None = None
    """How many; None: as many as there are folders."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published numbers of images by split, or by splits together, as `train+val`."""
    shares: Mapping[Split, Fraction] = field(default_factory=lambda: SHARES)
    """Of all images, for the splits that are cut."""
    mean: RGB | None = None
    """Published normalisation, with `std`; None: computed from train and val."""
    std: RGB | None = None
    metric: str | None = None
    """The headline metric; None: the task's."""
    note: str = ""
    """Whose split it is, and whatever else differs from the publication."""

    @property
    def place(self) -> Path:
        """The dataset's folder."""
        return data_folder() / (self.folder or self.name)

    @property
    def megabytes(self) -> int:
        """About, of all that is downloaded; 0 where that is not known of all."""
        sizes = [archive.megabytes for archive in self.archives]
        return sum(sizes) if all(sizes) else 0

    @property
    def fetched(self) -> bool:
        """Whether `prepare` can download all of it."""
        return bool(self.archives) and all(archive.url for archive in self.archives)

    def missing(self) -> str | None:
        """What is not there, as far as names tell without reading annotations."""
        return next((what for archive in self.archives if (what := archive.missing(self.place))), None)

    def ready(self) -> bool:
        """Whether the dataset is on this machine."""
        return self.missing() is None

    def listing(self, progress: Progress | None = None) -> Listing:
        """The dataset's images, downloaded first where they are few.

        Raises:
            DataError: the files are not there, cannot be downloaded, or are damaged.
        """
        if self.missing() and self.fetched and 0 < self.megabytes <= AT_ONCE:
            log.info("downloading %s to %s", self.name, self.place)
            self.prepare(progress)
        if what := self.missing():
            raise self.not_here(what)
        if not self.keep:
            return self._read()
        files = [path for pattern in self.keep for path in sorted(self.place.glob(pattern))]
        return kept.keep(self.name, files, self.source(self.place), self._read)

    def prepare(self, progress: Progress | None = None) -> None:
        """Download what may be downloaded, and unpack what is there and not yet unpacked; one process at a time.

        Raises:
            DataError: a download failed or an archive is damaged; what came so far stays.
        """
        if self.missing() is None:
            return
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.place} cannot be made ({error.strerror})", "choose another --data-root") from None
        with FileLock(self.place / ".preparing.lock"):
            for archive in self.archives:
                if archive.missing(self.place) is not None:  # also when another process had the lock before
                    self._prepare(archive, progress)

    def _prepare(self, archive: Archive, progress: Progress | None) -> None:
        there = sorted(self.place.glob(archive.name))
        if archive.url is not None and not there:
            there = [self._fetch(archive, archive.url, progress)]
        elif archive.checksum is not None and not all(map(archive.checksum.fits, there)):
            what = f"{there[0]} is not the file that was published: its {archive.checksum.algorithm} differs"
            raise DataError(what, unpack.AGAIN)
        packed = [path for path in there if unpack.is_packed(path.name)]
        for path in packed:  # first, so that none of several can be forgotten when this is broken off
            unpack.unfinished(path).mkdir(exist_ok=True)
        for path in packed:
            unpack.unpack(path, progress)

    def _fetch(self, archive: Archive, url: str, progress: Progress | None) -> Path:
        path = self.place / archive.name
        try:
            fetch.download(url, path, checksum=archive.checksum, size=archive.size, progress=progress)
        except DataError as error:
            by_hand = f"{error.fix or 'try again'}; or put {archive.name} into {self.place} ({self.page})"
            raise DataError(f"{self.name} is not here and its download failed: {error.what}", by_hand) from None
        return path

    def not_here(self, what: str) -> DataError:
        """The line for a dataset of which something is missing."""
        return DataError(
            f"{self.name} is not here: {what} is missing in {self.place}",
            f"hptctl datasets prepare {self.name} gets it"
            if self.fetched
            else f"hptctl datasets prepare {self.name} says how to get it",
        )

    def _read(self) -> Listing:
        try:
            return self.read(self.place)
        except FileNotFoundError as error:
            raise self.not_here(str(error.filename)) from None
