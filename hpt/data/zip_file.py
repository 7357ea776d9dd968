"""Zip files from strangers: opened whole or not at all, refused where a member is unsafe, and read in place."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpt.data.listing import Read, Unreadable
from hpt.errors import DataError

LARGEST_MEMBER = 256 << 20
"""The most bytes that one image in a zip file may claim."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError)
"""What reading a member raises."""
BOMB_RATIO, BOMB_SIZE = 200, 16 << 20
"""A member above this size that shrank by more than this ratio is not an image."""


@dataclass(frozen=True)
class Zip:
    """A source of images by their names below `prefix` in a zip file."""

    path: Path
    prefix: str = ""

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        """Texts from the archive's directory, which holds checksums, so that the file stays known when it is moved."""
        with open_zip(self.path) as archive:
            for name in names:
                member = archive.getinfo(self.prefix + name)
                yield f"{member.CRC} {member.file_size}"

    @contextmanager
    def open(self) -> Iterator[Read]:
        with open_zip(self.path) as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.read(self.prefix + name)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
                    raise Unreadable(f"damaged in the archive: {error}") from None

            yield read


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file, opened, that is whole as far as its directory tells.

    Raises:
        DataError: the file cannot be read or is damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is not a whole zip file: {error}", "it may be truncated; copy or download it again"
        ) from None


def check_name(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a member whose path leads out of the archive, with a DataError."""
    name = member.filename
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise DataError(
            f"{path} is refused: its member '{name}' has an unsafe path",
            "zip the folder again with plain paths",
        )


def check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse an image that is encrypted or claims an absurd size, with a DataError."""
    size, packed = member.file_size, member.compress_size
    if member.flag_bits & 1:
        raise DataError(
            f"{path} is refused: its member '{member.filename}' is encrypted",
            "zip the folder again without a password",
        )
    if size > LARGEST_MEMBER or (size > BOMB_SIZE and size > BOMB_RATIO * packed):
        raise DataError(
            f"{path} is refused: its member '{member.filename}' claims {size / 2**20:,.0f} MiB, packed "
            f"{packed / 2**20:,.1f} MiB",
            "it is not an image; remove it from the archive",
        )
