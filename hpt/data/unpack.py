"""Unpacking publishers' archives into the folder of their dataset: safely, and whole or not at all.

An archive is unpacked into the folder `.unpacking-NAME`; then its content is moved, and that folder is removed. While
it exists, the archive counts as not unpacked: a process that was killed leaves nothing that is read.
"""

from __future__ import annotations

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hpt.callbacks import Progress
from hpt.data.zip_file import BOMB_RATIO, check_name, name_of, open_zip
from hpt.errors import DataError

UNPACKING = ".unpacking-"
PACKED = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
AGAIN = "delete it and get it again"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError)
"""What damaged bytes raise, as each method of packing has it; bzip2's is an OSError without a number."""


def is_packed(name: str) -> bool:
    """Whether a file of that name can be unpacked here."""
    return name.lower().endswith(PACKED)


def unfinished(archive: Path) -> Path:
    """The folder that exists while an archive is unpacked, and stays if that is interrupted."""
    return archive.with_name(UNPACKING + archive.name)


def unpack(archive: Path, progress: Progress | None = None) -> None:
    """Unpack an archive into its own folder; files of the same names are replaced.

    Raises:
        DataError: it is damaged or hostile (a path that leads out of the folder, a claim of absurd size), or the disk
            does not have the space.
    """
    building = unfinished(archive)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    members = _unzip(archive, building) if archive.suffix.lower() == ".zip" else _untar(archive, building)
    for done, total in members:
        if progress is not None:
            progress(done, total, f"unpacking {archive.name}")
    _move(building, archive.parent)
    shutil.rmtree(building)


def _unzip(archive: Path, into: Path) -> Iterator[tuple[int, int]]:
    with open_zip(archive) as packed:
        members = packed.infolist()
        for member in members:
            check_name(member, archive)
            if member.flag_bits & 1:
                raise DataError(f"{archive} is encrypted", "unpack it yourself, into the same folder")
        claimed = sum(member.file_size for member in members)
        if claimed > BOMB_RATIO * archive.stat().st_size:
            raise DataError(f"{archive} is refused: it claims to hold {claimed:,} bytes, which images never do", AGAIN)
        _check_room(archive, claimed)
        for done, member in enumerate(members, start=1):
            member.filename = name_of(member)
            try:
                packed.extract(member, into)
            except DAMAGED as error:
                raise DataError(f"{archive} is damaged: {member.filename}: {error}", AGAIN) from None
            except OSError as error:
                _refuse_unless_of_the_disk(error, archive)
                raise
            yield done, len(members)


def _untar(archive: Path, into: Path) -> Iterator[tuple[int, int]]:
    size = archive.stat().st_size
    _check_room(archive, size)
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as packed:  # one pass, no seeking
            for member in packed:
                packed.extract(member, into, filter="data")
                yield file.tell(), size
    except tarfile.FilterError as error:
        raise DataError(f"{archive} is refused: {error}", "get it again from the publisher") from None
    except DAMAGED as error:
        raise DataError(f"{archive} is damaged: {error}", AGAIN) from None
    except OSError as error:
        _refuse_unless_of_the_disk(error, archive)
        raise


def _refuse_unless_of_the_disk(error: OSError, archive: Path) -> None:
    if error.errno is None:
        raise DataError(f"{archive} is damaged: {error}", AGAIN) from None


def _check_room(archive: Path, needed: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise DataError(
            f"unpacking {archive.name} takes {needed / 2**30:,.1f} GiB, and the disk has {free / 2**30:,.1f} GiB left",
            "free some space, or choose another data root",
        )


def _move(source: Path, target: Path) -> None:
    """Move each folder as a whole where it is new, and its content where it exists already."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        else:
            path.replace(place)
