"""Zip files from strangers: opened whole or not at all, refused where a member is unsafe, and read in place."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hpt.data.listing import Read, Unreadable
from hpt.errors import DataError

LARGEST_MEMBER = 256 << 20
"""The most bytes that one image in a zip file may claim."""
BOMB_RATIO, BOMB_SIZE = 200, 16 << 20
"""A member above this size that shrank by more than this ratio is not an image."""
READABLE = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
"""The methods of packing that Python reads."""
METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 20: "zstd", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
"""What some of the others are called."""
IS_UTF8 = 0x800
"""The flag of a member whose name is UTF-8."""


@dataclass(frozen=True)
class Zip:
    """A source of images by their names below `prefix` in a zip file."""

    path: Path
    prefix: str = ""

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        """Texts from the archive's directory, which holds checksums, so that the file stays known when it is moved."""
        with open_zip(self.path) as archive:
            known = members(archive)
            for name in names:
                member = known[self.prefix + name]
                yield f"{member.CRC} {member.file_size}"

    @contextmanager
    def open(self) -> Iterator[Read]:
        with open_zip(self.path) as archive:
            known = members(archive)

            def read(name: str) -> bytes:
                try:
                    return archive.read(known[self.prefix + name])
                except Exception as error:  # each method of packing has errors of its own for damaged bytes
                    raise Unreadable(f"damaged in the archive: {error or type(error).__name__}") from None

            yield read


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file, opened, that is whole as far as its directory tells.

    Raises:
        DataError: the file cannot be read or is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        _refuse_part(path)
        raise DataError(
            f"{path} is not a whole zip file: {error}", "it may be truncated; copy or download it again"
        ) from None
    if any(member.volume for member in archive.infolist()):
        archive.close()
        _refuse_part(path, sure=True)
    return archive


def _refuse_part(path: Path, *, sure: bool = False) -> None:
    """Refuse the last part of a zip file that was written in several, with a DataError."""
    first = next((each for each in (path.with_suffix(".z01"), path.with_suffix(".Z01")) if each.exists()), None)
    if sure or first:
        raise DataError(
            f"{path} is the last part of a zip file that was written in several",
            f"join them: zip -s 0 {path.name} --out whole.zip",
        )


def name_of(member: zipfile.ZipInfo) -> str:
    """The name of a member, with slashes, as whoever zipped it saw it.

    Windows' own archiver has written backslashes, and macOS's has written UTF-8 without saying so.
    """
    name = member.filename
    if not member.flag_bits & IS_UTF8 and not name.isascii():
        with suppress(ValueError):
            name = name.encode("cp437").decode()  # zipfile decodes what is not said to be UTF-8 as code page 437
    return name.replace("\\", "/")


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by their names; the last of a name."""
    return {name_of(member): member for member in archive.infolist()}


def check_name(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a member whose path leads out of the archive, with a DataError."""
    name = name_of(member)
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        raise DataError(
            f"{path} is refused: its member '{member.filename}' has an unsafe path",
            "zip the folder again with plain paths",
        )


def check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse an image that is encrypted, packed in a way that Python does not read, or claims an absurd size."""
    size, packed = member.file_size, member.compress_size
    if member.flag_bits & 1:
        raise DataError(
            f"{path} is refused: its member '{member.filename}' is encrypted",
            "zip the folder again without a password",
        )
    if member.compress_type not in READABLE:
        method = METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise DataError(
            f"{path} cannot be read: its member '{member.filename}' is packed by {method}",
            "zip the folder again with deflate, as zip does, or unpack it and name the folder",
        )
    if size > LARGEST_MEMBER or (size > BOMB_SIZE and size > BOMB_RATIO * packed):
        raise DataError(
            f"{path} is refused: its member '{member.filename}' claims {size / 2**20:,.0f} MiB, packed "
            f"{packed / 2**20:,.1f} MiB",
            "it is not an image; remove it from the archive",
        )
