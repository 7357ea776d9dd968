"""The cache of decoded images on the disk: its entries are opened, listed, and pruned while other processes use them,
as are the features that lie beside them (`feature_store`).

An entry that is open holds a shared lock on its images.bin for as long as its pixels are mapped (by flock, which NFS
passes on to the other machines; on Windows a file that is mapped cannot be taken away anyhow). Pruning takes
an entry away only under the exclusive lock, and by one rename, so that a process that comes too late finds no entry
and builds it again. A process that builds an entry holds the lock of its stamp; a `.building-*` whose lock is free was
abandoned.

Lock files are never removed: they are empty, and removing one that a process waits for would let two build at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import portalocker
from portalocker import LockFlags

from hpt.data import feature_store
from hpt.data.feature_store import KeptFile
from hpt.data.pixel_format import PixelFormat
from hpt.files import shared_lock
from hpt.user_folders import cache_folder

EntryState = Literal["whole", "damaged", "being built", "abandoned"]

BUILDING, REMOVED = ".building-", ".removed-"
PUBLISH_LOCK = "publish.lock"


class Damaged(Exception):
    """A file in the cache does not hold what it should, and why."""


@dataclass(frozen=True)
class EntryIndex:
    """What an entry records about its pixels."""

    names: tuple[str, ...]
    """The names of the readable images, in the order of their pixels."""
    quarantined: tuple[tuple[str, str], ...]
    """The name of each image that could not be read, and the reason; these are not in `names`."""
    sizes: npt.NDArray[np.int64]
    """[N, 2] the height and width of each image."""
    digests: npt.NDArray[np.uint8]
    """[N, 16] a digest of the bytes of each file."""
    sums: npt.NDArray[np.uint64]
    """[N, 2, C] the sum of the pixels of each image and of their squares, per channel."""
    losses: npt.NDArray[np.int64]
    """[N, 3] what `decode.Loss` counts of each image: pages left out, grey levels of the file, and of the pixels."""
    originals: npt.NDArray[np.int64]
    """[N, 3] the height and width of each image as it is shown, before any reduction, and the EXIF orientation by which
    it was turned; zeros in an entry that version 0.1 made."""
    occurring: npt.NDArray[np.int64]
    """[n, 3] of pixels that are numbers of classes: the row of an image, a number that occurs in it, and how often
    before any reduction; of no rows where pixels are colours."""
    form: PixelFormat
    """How the files became pixels."""

    @property
    def bytes(self) -> int:
        """The size that images.bin must have."""
        return int(self.form.channels * self.form.dtype.itemsize * self.sizes.prod(axis=1).sum())


@dataclass(frozen=True)
class StoredEntry:
    """One entry of the cache on the disk, or what a process that was killed has left of one."""

    path: Path
    """The folder of the entry, or the file of features."""
    state: EntryState
    """Whether it can be used."""
    reason: str
    """What is damaged; empty where nothing is."""
    in_use: bool
    """Whether some process has it open, this one included."""
    datasets: tuple[str, ...]
    """The paths or names of the catalogue that it was read for: several where the same images lie in several places,
    none where that was not recorded."""
    images: int | None
    """The number of images; None where it is unknown."""
    side: int | None
    """The shorter side in pixels that was asked for; None where it is unknown."""
    bytes: int
    """The size of its files."""
    used: float
    """The time, in seconds since 1970, when a dataset was last opened from it, or when it was built if the cache could
    not be written to since then."""
    features_of: str | None = None
    """The backbone whose features of these images it holds; None of an entry that holds the images."""


@dataclass(frozen=True)
class PrunedEntries:
    """What pruning removes, or would remove."""

    removed: tuple[StoredEntry, ...]
    """The entries that are removed."""
    in_use: tuple[StoredEntry, ...]
    """The entries that would be removed if no process had them open."""
    denied: tuple[StoredEntry, ...]
    """The entries that would be removed if this user might: another's, in a cache that several users share."""
    stamps: int
    """The number of stamps whose entry is gone."""


def images_folder() -> Path:
    """The folder of the entries."""
    return cache_folder() / "images"


def formats_folder() -> Path:
    """The folder of the pixel formats that were measured: some hundred bytes for each dataset and setting."""
    return cache_folder() / "formats"


def read_index(path: Path) -> EntryIndex:
    """The index of an entry whose images.bin has the right length.

    Raises:
        Damaged: a file does not hold what it should. FileNotFoundError: a file, or the entry, is missing.
    """
    try:
        facts = json.loads((path / "index.json").read_bytes())
        # Opened here, because np.load leaves a damaged file open.
        with (path / "index.npz").open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in ("sizes", "digests", "sums")}
            # An entry of version 0.1, which `entries` lists, has none.
            none = np.zeros((len(arrays["sizes"]), 3), dtype=np.int64)
            arrays["losses"] = saved.get("losses", none)
            arrays["originals"] = saved.get("originals", none)
            occurring = saved.get("occurring", none[:0])
        index = EntryIndex(
            names=tuple(facts["names"]),
            quarantined=tuple((name, reason) for name, reason in facts["quarantined"]),
            form=PixelFormat.model_validate(facts.get("form", {})),
            occurring=occurring,
            **arrays,
        )
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Damaged(f"its index: {error}") from None
    if any(len(array) != len(index.names) for array in arrays.values()):
        raise Damaged("its index is incomplete")
    size = (path / "images.bin").stat().st_size
    if size != index.bytes:
        raise Damaged(f"images.bin has {size:,} bytes instead of {index.bytes:,}")
    return index


def open_pixels(path: Path) -> BinaryIO:
    """`images.bin` of an entry, which is not pruned while this file, or a map of it, is open.

    Raises:
        FileNotFoundError: it was pruned.
    """
    while True:
        file = (path / "images.bin").open("rb")
        try:
            # A file system may have no locks; nothing in use is pruned there either.
            with suppress(portalocker.LockException):
                portalocker.lock(file, LockFlags.SHARED)
            if os.path.samestat(os.fstat(file.fileno()), (path / "images.bin").stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # pruned and built again since it was opened


def entry_of(stamp: Path) -> tuple[str, str]:
    """The entry that a stamp points to, and the dataset it was last read for ("" where that is not known).

    Raises:
        Damaged: the stamp is incomplete. FileNotFoundError: the stamp is missing.
    """
    try:
        facts = json.loads(stamp.read_bytes())
        return str(facts["entry"]), str(facts.get("dataset", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(str(error)) from None


def touch(path: Path) -> None:
    """Record that an entry was used, where the cache can be written to."""
    with suppress(OSError):
        os.utime(path / "index.json")


def entries() -> list[StoredEntry]:
    """All entries in the cache, and all features, the last used first."""
    folder = images_folder()
    datasets: dict[str, set[str]] = {}
    for stamp in folder.glob("*.json"):
        with suppress(Damaged, FileNotFoundError, PermissionError):
            key, dataset = entry_of(stamp)
            datasets.setdefault(key, set()).update({dataset} - {""})
    found = [_features(kept) for kept in feature_store.kept()]
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or another user's who keeps it to himself
            if path.name.startswith((BUILDING, REMOVED)):
                found.append(_unfinished(path))
            elif re.fullmatch("[0-9a-f]{32}", path.name):
                found.append(_entry(path, datasets.get(path.name, set())))
    return sorted(found, key=lambda stored: (-stored.used, stored.path.name))


def prune(
    *,
    unused_for: float | None = None,
    max_bytes: int | None = None,
    everything: bool = False,
    dry_run: bool = False,
) -> PrunedEntries:
    """Remove what is damaged or abandoned, and of the whole entries, the longest unused first, those that were not
    used for `unused_for` seconds, or are too much for `max_bytes` of all that lies in the cache, or everything.

    What another process has open or is building is kept, and what this user may not remove; it counts towards
    `max_bytes`.
    """
    found = entries()
    doomed = [stored for stored in found if stored.state in ("damaged", "abandoned")]
    may = {stored.path: _may_remove(stored.path) for stored in found}
    left = sum(each.bytes for each in found) - sum(e.bytes for e in doomed if not e.in_use and may[e.path])
    now = time.time()
    for stored in reversed([stored for stored in found if stored.state == "whole"]):
        unused = unused_for is not None and now - stored.used > unused_for
        if everything or unused or (max_bytes is not None and left > max_bytes):
            doomed.append(stored)
            left -= 0 if stored.in_use or not may[stored.path] else stored.bytes
    removed: list[StoredEntry] = []
    in_use: list[StoredEntry] = []
    for stored in (stored for stored in doomed if may[stored.path]):
        gone = not stored.in_use and (dry_run or _remove(stored))
        (removed if gone else in_use).append(stored)
    keys = {stored.path.name for stored in removed}
    denied = tuple(stored for stored in doomed if not may[stored.path])
    return PrunedEntries(tuple(removed), tuple(in_use), denied, _prune_stamps(keys, dry_run=dry_run))


def _may_remove(path: Path) -> bool:
    """Whether this user may: the folder must be writable, and with its sticky bit the entry be the user's own."""
    if not (os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)):
        return False
    folder = path.parent.stat()
    if not folder.st_mode & stat.S_ISVTX:  # never set on Windows
        return True
    return os.geteuid() in {0, folder.st_uid, path.stat().st_uid}


def _entry(path: Path, datasets: set[str]) -> StoredEntry:
    about = _about(path)
    try:
        used = (path / "index.json").stat().st_mtime
    except FileNotFoundError:
        used = path.stat().st_mtime
    state: EntryState = "whole"
    reason, images = "", None
    try:
        images = len(read_index(path).names)
    except Damaged as error:
        state, reason = "damaged", str(error)
    except FileNotFoundError as error:
        path.stat()  # pruned meanwhile, or is only a file missing?
        state, reason = "damaged", f"{Path(error.filename).name} is missing"
    with _alone(path) as free:
        in_use = not free
    return StoredEntry(
        path=path,
        state=state,
        reason=reason,
        in_use=in_use,
        datasets=tuple(sorted(datasets)) or ((about["dataset"],) if about.get("dataset") else ()),
        images=images,
        side=about.get("side"),
        bytes=_size(path),
        used=used,
    )


def _features(kept: KeptFile) -> StoredEntry:
    state: EntryState = "whole" if kept.whole else "damaged"
    if kept.path.suffix == feature_store.PART:
        with _unless_held(feature_store.lock_of(kept.path)) as free:
            state = "abandoned" if free else "being built"
    return StoredEntry(
        path=kept.path,
        state=state,
        reason="its header" if state == "damaged" else "",
        in_use=state == "being built",
        datasets=(kept.dataset,) if kept.dataset else (),
        images=kept.images,
        side=None,
        bytes=kept.bytes,
        used=kept.used,
        features_of=kept.of,
    )


def _unfinished(path: Path) -> StoredEntry:
    with _builder(path) as free:
        building = not free
    about = _about(path)
    return StoredEntry(
        path=path,
        state="being built" if building else "abandoned",
        reason="",
        in_use=building,
        datasets=(about["dataset"],) if about.get("dataset") else (),
        images=None,
        side=about.get("side"),
        bytes=_size(path),
        used=max(file.stat().st_mtime for file in (path, *path.iterdir())),
    )


def _remove(stored: StoredEntry) -> bool:
    """Remove an entry, unless a process has opened it meanwhile; whether it is gone."""
    path = stored.path
    if stored.features_of is not None:
        feature_store.remove(path)
        return True
    if stored.state == "abandoned":
        with _builder(path) as free:
            if free:
                _delete(path)
            return free
    with shared_lock(path.parent / PUBLISH_LOCK), _alone(path) as free:
        if not free:
            return False
        gone = path.with_name(REMOVED + uuid.uuid4().hex)
        try:
            path.rename(gone)
        except FileNotFoundError:  # another prune was first
            return True
    _delete(gone)
    return True


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):  # another prune deletes it too
        shutil.rmtree(path)


def _prune_stamps(gone: set[str], *, dry_run: bool) -> int:
    """Remove stamps whose entry is missing; `gone` are the entries that were removed, or would be."""
    folder = images_folder()

    def dangles(stamp: Path) -> bool:
        try:
            key, _ = entry_of(stamp)
        except (FileNotFoundError, PermissionError):
            return False
        except Damaged:
            return True
        return (dry_run and key in gone) or not (folder / key).is_dir()

    count = 0
    for stamp in folder.glob("*.json"):
        if dangles(stamp) and _may_remove(stamp):
            with _unless_held(stamp.with_suffix(".lock")) as free:  # else a process is about to write it
                if free and dangles(stamp):
                    count += 1
                    if not dry_run:
                        stamp.unlink()
    return count


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no process has the entry open; while the block runs, none opens it."""
    pixels = path / "images.bin"
    try:
        # NFS gives an exclusive lock only on a file that can be written.
        file = pixels.open("r+b" if os.access(pixels, os.W_OK) else "rb")
    except FileNotFoundError:
        yield True
        return
    with file:
        try:
            portalocker.lock(file, LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING)
        except portalocker.LockException:  # held, or a file system without locks: who knows
            yield False
        else:
            yield True


@contextmanager
def _builder(path: Path) -> Iterator[bool]:
    """Whether no process builds in a `.building-*`; while the block runs, none does."""
    if path.name.startswith(REMOVED):
        yield True
    else:
        with _unless_held(path.with_name(path.name.removeprefix(BUILDING) + ".lock")) as free:
            yield free


@contextmanager
def _unless_held(path: Path) -> Iterator[bool]:
    lock = shared_lock(path)
    try:
        lock.acquire(timeout=0)
    except OSError:  # held, or a folder that cannot be written
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _about(path: Path) -> dict[str, Any]:
    """What was recorded when the entry was begun; empty for an entry of an earlier version, which recorded nothing."""
    try:
        about = json.loads((path / "about.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())
