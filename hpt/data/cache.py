"""Images decoded once into a memory-mapped file of 8- or 16-bit pixels that all runs of a dataset share.

    <cache>/images/
      <stamp>.json         names, sizes and times of the files (or the archive's checksums) -> their entry, and
                           the dataset that it was last read for
      <entry>/             content of the images, side and version of the decoder
        images.bin         each image as [C, H, W], one after the other; locked while it is open
        index.npz          height, width, digest of the file, sums of the pixels, losses, size of the file's image; one
                           row an image; and of masks which classes occur
        thumbnails.npy     uint8 [N, 256], by which a copy of an image is known (`hpt.data.thumbnails`)
        index.json         names, and what could not be read; its time is that of the last use
        about.json         dataset and side, for `cache_store.entries`
      <stamp>.lock, .building-<stamp>/      while a process builds

An entry is built under another name, synced and renamed, so that a build that was killed leaves nothing that is
read. An entry that was pruned (`cache_store`) is built again. An image that changes while its size and time of
modification stay the same goes unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import Timeout

from hpt import freed_memory
from hpt.callbacks import Progress
from hpt.data import cache_store, class_pixels, decode
from hpt.data.cache_store import Damaged
from hpt.data.images import OpenEntry, PackedPixels, pixel_sums
from hpt.data.listing import Listing
from hpt.data.pixel_format import PLAIN, PixelFormat
from hpt.data.reading import reading, reading_in_stages
from hpt.data.thumbnails import SIDE, Thumbnails, thumbnail
from hpt.errors import DataError
from hpt.files import flushed_meanwhile, shared_lock, sync, write_text
from hpt.user_folders import CACHE_VARIABLE

log = logging.getLogger("hpt.data")

MANY, SAMPLED = 2_000, 48
"""Images from which on the room that they take is reckoned before they are decoded, by so many of them."""


def open_or_build(
    listing: Listing, side: int, progress: Progress | None = None, *, dataset: str = "", form: PixelFormat = PLAIN
) -> OpenEntry:
    """The decoded images of a listing, as `form` says; they are read only where no entry holds them yet.

    Processes that need the same images wait for the first of them. Memory holds a few chunks of images per core. The
    entry is listed as `dataset`: a path or a name of the catalogue.

    Raises:
        DataError: they are not in the cache, and this user may not write there. OSError: the disk is full, say; nothing
            is left behind. Unmeasured: the format knows no window for an image.
    """
    folder = cache_store.images_folder()
    stamp = _stamp(listing, side, form)
    entry = _find(folder, stamp, dataset)
    if entry is not None:
        return entry
    try:
        return _wait_or_build(listing, side, form, progress, folder, stamp, dataset)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} and error.filename is None:
            error.filename = str(folder)  # a write does not say where
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        raise DataError(
            f"these images are not in the cache yet, where you may not write ({error.strerror}: {error.filename})",
            f"set {CACHE_VARIABLE} to a folder that can be written",
        ) from error


def _wait_or_build(
    listing: Listing,
    side: int,
    form: PixelFormat,
    progress: Progress | None,
    folder: Path,
    stamp: str,
    dataset: str,
) -> OpenEntry:
    folder.mkdir(parents=True, exist_ok=True)
    lock = shared_lock(folder / f"{stamp}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is decoding these images; waiting until it has finished")
        lock.acquire()
    try:
        entry = _find(folder, stamp, dataset)
        if entry is None:
            _refuse_full_disk(listing, side, form, folder)
            building = folder / f"{cache_store.BUILDING}{stamp}"
            _clear(building)
            building.mkdir()
            try:
                (building / "about.json").write_text(json.dumps({"dataset": dataset, "side": side}))
                key = _build(listing, side, form, building, progress)
                entry = _publish(building, folder / key)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            with suppress(PermissionError):  # another user's, in a folder where each may replace but his own
                write_text(folder / f"{stamp}.json", json.dumps({"entry": key, "dataset": dataset}))
        return entry
    finally:
        lock.release()


def _refuse_full_disk(listing: Listing, side: int, form: PixelFormat, folder: Path) -> None:
    """Refuse images that would fill the disk, by the pixels of a few of them, before hours are spent.

    Raises:
        DataError: they would.
    """
    names = listing.names
    if len(names) < MANY or form.classes_by:  # masks come beside images, which are refused first, and are smaller
        return
    some = replace(listing, names=tuple(names[(i * len(names)) // SAMPLED] for i in range(SAMPLED)))
    with reading(some, lambda data: decode.decode(data, side, form).nbytes, None) as sizes:
        known = [each for each in sizes if isinstance(each, int)]
    if not known:
        return
    needed, free = sum(known) / len(known) * len(names), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"decoded, these {len(names):,} images would take {needed / 2**30:,.0f} GiB, and the cache's disk has "
            f"{free / 2**30:,.0f} GiB free ({folder})",
            f"set {CACHE_VARIABLE} to a larger disk, or data.cache_side to less; a pretraining can do without, by "
            "--set data.stream=true",
        )


def _clear(path: Path) -> None:
    """Remove what a process left that was killed, or what is damaged.

    Raises:
        PermissionError: it is another user's.
    """
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise PermissionError(errno.EACCES, "another user's, and damaged or abandoned", str(path))


def _stamp(listing: Listing, side: int, form: PixelFormat) -> str:
    digest = hashlib.sha256(f"{decode.VERSION} {side} {form.model_dump_json(exclude_defaults=True)}\n".encode())
    for text in (*listing.names, *listing.source.stamp(listing.names)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]


def _find(folder: Path, stamp: str, dataset: str) -> OpenEntry | None:
    file = folder / f"{stamp}.json"
    try:
        key, last = cache_store.entry_of(file)
    except FileNotFoundError:
        return None
    except Damaged:
        log.warning("%s in the cache is damaged; decoding the images again", file.name)
        return None
    try:
        entry = _open(folder / key)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("cache entry %s is damaged (%s); decoding the images again", key, error)
        return None
    cache_store.touch(folder / key)
    if dataset not in ("", last):  # the archive has moved
        with suppress(OSError):
            write_text(file, json.dumps({"entry": key, "dataset": dataset}))
    return entry


def _open(path: Path) -> OpenEntry:
    index = cache_store.read_index(path)
    flat = torch.from_numpy(np.zeros(0, dtype=index.form.dtype))
    if index.bytes:  # an empty file cannot be mapped
        with cache_store.open_pixels(path) as file:  # the map keeps the file open, and so its lock
            flat = mapped(file, index.form.dtype)
    pixels = PackedPixels(flat, index.sizes, index.form.channels)
    return OpenEntry(**vars(index), pixels=pixels, kept_thumbnails=_thumbnails(path, index))


def _thumbnails(path: Path, index: cache_store.EntryIndex) -> Thumbnails | None:
    """The thumbnails of an entry, mapped; None where it has none, as one of version 0.1, or none that can be read."""
    try:
        kept: Thumbnails = np.load(path / "thumbnails.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == (len(index.names), SIDE**2) and kept.dtype == np.uint8 else None


def mapped(file: BinaryIO, dtype: np.dtype[Any]) -> torch.Tensor:
    """[numbers in the file]: a read-only map, whose pages are read as they are used.

    Writing into it would kill the process. Linux counts a writable map as memory in use, and refuses one that is larger
    than the memory.
    """
    flat = np.memmap(file, dtype=dtype, mode="r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(flat)


def _publish(building: Path, place: Path) -> OpenEntry:
    """Rename a finished entry to its place and open it, before anybody can prune it; the same images from elsewhere
    may have been there first."""
    with shared_lock(place.parent / cache_store.PUBLISH_LOCK):
        with suppress(FileNotFoundError, Damaged):
            entry = _open(place)
            cache_store.touch(place)
            return entry
        _clear(place)
        building.rename(place)
        sync(place.parent)
        return _open(place)


class _Read(NamedTuple):
    """An image of a file."""

    digest: bytes
    decoded: decode.Decoded
    occurring: class_pixels.Occurring


class _Finished(NamedTuple):
    """An image with what is computed from its pixels."""

    digest: bytes
    loss: decode.Loss
    occurring: class_pixels.Occurring
    pixels: decode.Pixels
    sums: npt.NDArray[np.uint64]
    thumbnail: Thumbnails


def _build(listing: Listing, side: int, form: PixelFormat, folder: Path, progress: Progress | None) -> str:
    """Write an entry's files into `folder`, and return the key under which it is kept."""
    names: list[str] = []
    quarantined: list[tuple[str, str]] = []
    decoded: list[
        tuple[tuple[int, int], bytes, npt.NDArray[np.uint64], tuple[int, int, int], tuple[int, int, int]]
    ] = []
    thumbnails: list[Thumbnails] = []
    occurring: list[npt.NDArray[np.int64]] = []
    freed_memory.keep()
    with (
        flushed_meanwhile(folder / "images.bin") as write,
        reading_in_stages(listing, lambda data: _read(data, side, form), _finish, progress) as images,
    ):
        for name, image in zip(listing.names, images, strict=True):
            if isinstance(image, str):
                quarantined.append((name, image))
            else:
                names.append(name)
                loss, (height, width) = image.loss, image.pixels.shape[1:]
                shown = loss.size[::-1] if loss.turn > 4 else loss.size
                if image.occurring.size:  # of masks alone
                    occurring.append(np.insert(image.occurring, 0, len(decoded), axis=1))
                counted = (loss.pages, loss.levels, loss.kept)
                decoded.append(((height, width), image.digest, image.sums, counted, (*shown, loss.turn)))
                thumbnails.append(image.thumbnail)
                write(image.pixels.data)
    sizes, digests, sums, losses, originals = zip(*decoded, strict=True) if decoded else ((), (), (), (), ())
    arrays: dict[str, Any] = {
        "sizes": np.array(sizes, dtype=np.int64).reshape(-1, 2),
        "digests": np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16),
        "sums": np.array(sums, dtype=np.uint64).reshape(-1, 2, form.channels),
        "losses": np.array(losses, dtype=np.int64).reshape(-1, 3),
        "originals": np.array(originals, dtype=np.int64).reshape(-1, 3),
        "occurring": np.concatenate([class_pixels.NONE_OCCUR, *occurring]),
    }
    np.savez(folder / "index.npz", **arrays)
    np.save(folder / "thumbnails.npy", np.array(thumbnails, dtype=np.uint8).reshape(-1, SIDE**2))
    facts = json.dumps({"names": names, "quarantined": quarantined, "form": form.model_dump(mode="json")})
    (folder / "index.json").write_text(facts, encoding="utf-8")
    for file_name in ("index.npz", "thumbnails.npy", "index.json", "about.json"):
        sync(folder / file_name)
    key = hashlib.sha256(f"{decode.VERSION} {side} {facts}".encode())
    key.update(arrays["digests"].tobytes())
    return key.hexdigest()[:32]


def _read(data: bytes, side: int, form: PixelFormat) -> _Read:
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if form.classes_by:
        pixels, loss, occurring = class_pixels.decode(data, side, form)
        return _Read(digest, decode.Decoded(pixels, loss), occurring)
    return _Read(digest, decode.decode_whole(data, side, form), class_pixels.NONE_OCCUR[:, 1:])


def _finish(images: list[_Read]) -> list[_Finished]:
    pixels = [np.ascontiguousarray(image.decoded.pixels) for image in images]
    pictures = [image.decoded.picture for image in images]
    sums = list(map(pixel_sums, pixels, pictures))
    thumbnails = list(map(thumbnail, pixels, pictures))
    return [
        _Finished(image.digest, image.decoded.loss, image.occurring, *computed)
        for image, *computed in zip(images, pixels, sums, thumbnails, strict=True)
    ]
