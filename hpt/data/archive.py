"""The files that a publisher offers, and how they come into a dataset's folder: downloaded, checked and unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpt.callbacks import Progress
from hpt.data import fetch, unpack
from hpt.data.fetch import Checksum
from hpt.errors import DataError


@dataclass(frozen=True)
class Archive:
    """A file that a publisher offers, packed or plain."""

    name: str
    """The name of the file, or a pattern where the publisher offers several of them, which only a person can get."""
    gives: tuple[str, ...]
    """Patterns, relative to the dataset's folder, of what exists once it is unpacked; annotations come first."""
    url: str | None = None
    """The address to download it from; None where only a person can get it, since the licence must be signed or the
    address is not that of a plain file."""
    megabytes: int = 0
    """The approximate size of the download in megabytes; 0 where it is unknown."""
    size: int | None = None
    """The size in bytes, where it is published."""
    checksum: Checksum | None = None
    """The checksum, where one is published."""

    def missing(self, folder: Path) -> str | None:
        """The first of the files it gives that is missing in a folder; None where all exist."""
        if next(folder.glob(unpack.unfinished(Path(self.name)).name), None):
            return f"{self.name}, whose unpacking was interrupted,"
        return next((pattern for pattern in self.gives if next(folder.glob(pattern), None) is None), None)

    def files(self, folder: Path) -> list[Path]:
        """The files of that name in a folder: what was downloaded or put there."""
        return sorted(folder.glob(self.name))

    def download(self, folder: Path, progress: Progress | None) -> None:
        """Download it into a folder, from its address.

        Raises:
            DataError: as `fetch.download`.
        """
        assert self.url is not None
        fetch.download(self.url, folder / self.name, checksum=self.checksum, size=self.size, progress=progress)

    def check(self, folder: Path) -> None:
        """Refuse files that were put into a folder and are not those that were published.

        Raises:
            DataError: a file has another checksum than the published one.
        """
        for path in self.files(folder):
            if self.checksum is not None and not self.checksum.fits(path):
                what = f"{path} is not the file that was published: its {self.checksum.algorithm} differs"
                raise DataError(what, unpack.AGAIN)

    def unpack(self, folder: Path, progress: Progress | None) -> None:
        """Unpack those of its files in a folder that are packed.

        Raises:
            DataError: as `unpack.unpack`.
        """
        packed = [path for path in self.files(folder) if unpack.is_packed(path.name)]
        for path in packed:  # first, so that after an interruption none of several passes for unpacked
            unpack.unfinished(path).mkdir(exist_ok=True)
        for path in packed:
            unpack.unpack(path, progress)
