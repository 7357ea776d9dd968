"""Images decoded once into a memory-mapped file of 8-bit pixels that all runs of a dataset share.

    <cache>/images/
      <stamp>.json         names, sizes and times of the files (or the archive's checksums) -> their entry, and
                           the dataset that it was last read for
      <entry>/             content of the images, side and version of the decoder
        images.bin         each image as [3, H, W], one after the other; locked while it is open
        index.npz          height, width, digest of the file, sums of the pixels; one row an image
        index.json         names, and what could not be read; its time is that of the last use
        about.json         dataset and side, for `cache_store.entries`
      <stamp>.lock, .building-<stamp>/      while a process builds

An entry is built beside its place, synced and renamed, so a build that was killed leaves nothing that is
read; it may be pruned (`cache_store`), and is built again. An image changed without a change of its size and time of
modification is not noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout

from hpt import cores
from hpt.callbacks import Progress
from hpt.data import cache_store, decode
from hpt.data.cache_store import Damaged, Index
from hpt.data.listing import Listing, Read, Unreadable
from hpt.files import sync, write_text

log = logging.getLogger("hpt.data")

RGB = tuple[float, float, float]
T = TypeVar("T")

CHUNK = 8
"""Images per task of a decoding thread: one by one, threads lose a third of their speed to the interpreter's
lock."""
SMALLEST_STD = 1e-3
"""Images of one colour would otherwise be divided by zero."""


@dataclass(frozen=True)
class RawBatch:
    """Images as they lie in the cache."""

    pixels: torch.Tensor
    """uint8 [n, 3, H, W]: each image at the top left, padded with zeros to the largest of the batch."""
    sizes: torch.Tensor
    """int64 [n, 2]: height and width of each image."""


@dataclass(frozen=True)
class Pixels:
    """Images of any sizes, one after the other: in a map, or in the memory of a device."""

    flat: torch.Tensor
    """uint8, [3, H, W] after [3, H, W]."""
    sizes: npt.NDArray[np.int64]
    """[N, 2] height and width."""

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[N] where each image starts in `flat`."""
        lengths = 3 * self.sizes.prod(axis=1)
        offsets: npt.NDArray[np.int64] = np.cumsum(lengths) - lengths
        return offsets

    @cached_property
    def equal(self) -> torch.Tensor | None:
        """`flat` as [N, 3, H, W] where all images are of one size."""
        if (self.sizes == self.sizes[0]).all():
            return self.flat.view(-1, 3, *self.sizes[0].tolist())
        return None

    def image(self, row: int) -> torch.Tensor:
        """[3, H, W], a view."""
        height, width = self.sizes[row].tolist()
        start = int(self.offsets[row])
        return self.flat[start : start + 3 * height * width].view(3, height, width)

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        """A copy of some images; images of one size cost one gather, others a copy each and the padding."""
        rows = np.asarray(rows, dtype=np.int64)
        sizes = self.sizes[rows]
        if self.equal is not None:
            return RawBatch(_gather(self.equal, rows), torch.from_numpy(sizes))
        pixels = self.flat.new_zeros(len(rows), 3, *sizes.max(axis=0).tolist())
        for padded, row, (height, width) in zip(_plain(pixels), rows.tolist(), sizes.tolist(), strict=True):
            padded[:, :height, :width] = _plain(self.image(row))
        return RawBatch(pixels, torch.from_numpy(sizes))

    def on(self, device: torch.device, rows: npt.NDArray[np.int64]) -> Pixels:
        """A copy of some images in the memory of a device."""
        sizes = self.sizes[rows]
        copy = Pixels(torch.empty(int(3 * sizes.prod(axis=1).sum()), dtype=torch.uint8, device=device), sizes)
        for place, row in enumerate(rows.tolist()):
            copy.image(place).copy_(self.image(row))
        return copy


# Pixels in main memory are copied by NumPy, on one core. PyTorch would take all, from the thread that reads ahead: its
# team of workers then spins beside the model's, which made a whole step of a ResNet-18 at 32 px a quarter slower.


def _plain(pixels: torch.Tensor) -> Any:
    return pixels.numpy() if pixels.device.type == "cpu" else pixels


def _gather(pixels: torch.Tensor, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    if pixels.device.type == "cpu":
        return torch.from_numpy(pixels.numpy().take(rows, axis=0))
    return pixels.index_select(0, torch.from_numpy(rows).to(pixels.device, non_blocking=True))


@dataclass(frozen=True)
class Entry(Index):
    """One entry of the cache, open."""

    pixels: Pixels
    """Mapped, and not to be written to."""

    def mean_std(self, rows: npt.NDArray[np.int64]) -> tuple[RGB, RGB]:
        """Mean and standard deviation of all pixels of some images, in [0, 1], from exact integer sums."""
        total = self.sums[rows].sum(axis=0).astype(np.float64)
        pixels = float(self.sizes[rows].prod(axis=1).sum())
        mean = total[0] / pixels
        std = np.sqrt(np.maximum(total[1] / pixels - mean**2, 0))
        return _rgb(mean / 255), _rgb(np.maximum(std / 255, SMALLEST_STD))


class Images:
    """Images without labels: all that pretraining ever gets."""

    def __init__(self, entry: Entry, rows: npt.NDArray[np.int64], mean: RGB, std: RGB) -> None:
        self._entry = entry
        self._rows = rows
        self.mean = mean
        """Per channel, in [0, 1]; with `std`, for normalisation."""
        self.std = std

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """Of all pixels."""
        return int(3 * self._entry.sizes[self._rows].prod(axis=1).sum())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Relative posix names, one per image."""
        return tuple(self._entry.names[row] for row in self._rows)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[N, 2] height and width, as decoded."""
        return self._entry.sizes[self._rows]

    @property
    def digests(self) -> npt.NDArray[np.void]:
        """[N] of the files' bytes, 16 bytes each: equal for equal files, whatever they are called."""
        return self._entry.digests[self._rows].view("V16").ravel()

    def statistics(self) -> tuple[RGB, RGB]:
        """Mean and standard deviation of these images' own pixels, which `mean` and `std` may not be."""
        return self._entry.mean_std(self._rows)

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Images:
        """Some of the images, in the order of `indices`, with the same mean and std."""
        return Images(self._entry, self._rows[np.asarray(indices, dtype=np.int64)], self.mean, self.std)

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        """A copy of some images."""
        return self._entry.pixels.batch(self._rows[np.asarray(indices, dtype=np.int64)])

    def on(self, device: torch.device) -> Pixels:
        """The images in the memory of a device, under the same indices: for small sets that are visited many times."""
        return self._entry.pixels.on(device, self._rows)


def open_or_build(listing: Listing, side: int, progress: Progress | None = None, *, dataset: str = "") -> Entry:
    """The decoded images of a listing; they are read only where no entry holds them yet.

    Processes that need the same images wait for the first of them. Memory holds a few chunks of images per
    core. `dataset`, a path or a name of the catalogue, is what the entry is listed as.

    Raises:
        OSError: the cache cannot be written, for example because the disk is full; nothing is left behind.
    """
    folder = cache_store.images_folder()
    folder.mkdir(parents=True, exist_ok=True)
    stamp = _stamp(listing, side)
    entry = _find(folder, stamp, dataset)
    if entry is not None:
        return entry
    lock = FileLock(folder / f"{stamp}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is decoding these images; waiting for it")
        lock.acquire()
    try:
        entry = _find(folder, stamp, dataset)
        if entry is None:
            building = folder / f"{cache_store.BUILDING}{stamp}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            try:
                (building / "about.json").write_text(json.dumps({"dataset": dataset, "side": side}))
                key = _build(listing, side, building, progress)
                entry = _publish(building, folder / key)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            write_text(folder / f"{stamp}.json", json.dumps({"entry": key, "dataset": dataset}))
        return entry
    finally:
        lock.release()


def _stamp(listing: Listing, side: int) -> str:
    digest = hashlib.sha256(f"{decode.VERSION} {side}\n".encode())
    for text in (*listing.names, *listing.source.stamp(listing.names)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]


def _find(folder: Path, stamp: str, dataset: str) -> Entry | None:
    file = folder / f"{stamp}.json"
    try:
        key, last = cache_store.entry_of(file)
    except FileNotFoundError:
        return None
    except Damaged:
        log.warning("the cache's %s is damaged; decoding the images again", file.name)
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


def _open(path: Path) -> Entry:
    index = cache_store.read_index(path)
    flat = torch.zeros(0, dtype=torch.uint8)
    if index.bytes:  # an empty file cannot be mapped
        with cache_store.open_pixels(path) as file:  # the map keeps the file open, and so its lock
            flat = mapped(file)
    return Entry(**vars(index), pixels=Pixels(flat, index.sizes))


def mapped(file: BinaryIO) -> torch.Tensor:
    """uint8 [bytes of the file], read from it as they are used; writing into them would kill the process.

    Read-only, since Linux counts a map that could be written to as memory in use, and refuses one larger than RAM.
    """
    flat = np.memmap(file, dtype=np.uint8, mode="r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(flat)


def _publish(building: Path, place: Path) -> Entry:
    """Rename a finished entry to its place and open it, before anybody can prune it; the same images from elsewhere
    may have been there first."""
    with FileLock(place.parent / cache_store.PUBLISH_LOCK):
        with suppress(FileNotFoundError, Damaged):
            entry = _open(place)
            cache_store.touch(place)
            return entry
        shutil.rmtree(place, ignore_errors=True)
        building.rename(place)
        sync(place.parent)
        return _open(place)


@dataclass(frozen=True)
class _Decoded:
    digest: bytes
    size: tuple[int, int]
    sums: npt.NDArray[np.uint64]
    pixels: bytes


def _build(listing: Listing, side: int, folder: Path, progress: Progress | None) -> str:
    """Write an entry's files into `folder`; the key under which it is kept."""
    names: list[str] = []
    quarantined: list[tuple[str, str]] = []
    decoded: list[tuple[tuple[int, int], bytes, npt.NDArray[np.uint64]]] = []
    with (folder / "images.bin").open("wb") as file, decode.quiet(), listing.source.open() as read:
        images = in_order(lambda name: _decode(read, name, side), listing.names)
        for done, (name, image) in enumerate(zip(listing.names, images, strict=True), start=1):
            if isinstance(image, str):
                quarantined.append((name, image))
            else:
                names.append(name)
                decoded.append((image.size, image.digest, image.sums))
                file.write(image.pixels)
            if progress is not None and (done % CHUNK == 0 or done == len(listing.names)):
                progress(done, len(listing.names), "reading images")
    sizes, digests, sums = zip(*decoded, strict=True) if decoded else ((), (), ())
    arrays: dict[str, Any] = {
        "sizes": np.array(sizes, dtype=np.int64).reshape(-1, 2),
        "digests": np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16),
        "sums": np.array(sums, dtype=np.uint64).reshape(-1, 2, 3),
    }
    np.savez(folder / "index.npz", **arrays)
    facts = json.dumps({"names": names, "quarantined": quarantined})
    (folder / "index.json").write_text(facts, encoding="utf-8")
    for file_name in ("images.bin", "index.npz", "index.json", "about.json"):
        sync(folder / file_name)
    key = hashlib.sha256(f"{decode.VERSION} {side} {facts}".encode())
    key.update(arrays["digests"].tobytes())
    return key.hexdigest()[:32]


def in_order(work: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """What `work` gives for each name, in their order, done by all cores.

    Threads, because Pillow decodes without the interpreter's lock: on two cores photographs of 500 x 375 came
    at 630 a second (330 in one thread, 420 in two processes, which must send the pixels); of 64 x 64, 5,000
    (9,000, 8,700).
    """

    def work_on(chunk: Sequence[str]) -> list[T]:
        return [work(name) for name in chunk]

    workers = cores.usable()
    chunks = iter([names[i : i + CHUNK] for i in range(0, len(names), CHUNK)])
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[list[T]]] = deque()
        try:
            ahead.extend(pool.submit(work_on, chunk) for chunk in islice(chunks, 2 * workers))
            while ahead:
                yield from ahead.popleft().result()
                ahead.extend(pool.submit(work_on, chunk) for chunk in islice(chunks, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(read: Read, name: str, side: int) -> _Decoded | str:
    try:
        data = read(name)
        pixels = decode.decode(data, side)
    except Unreadable as error:
        return str(error)
    squares = np.square(pixels, dtype=np.uint16)  # 255 squared fits
    sums = np.stack([values.sum(axis=(1, 2), dtype=np.uint64) for values in (pixels, squares)])
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return _Decoded(digest, (pixels.shape[1], pixels.shape[2]), sums, pixels.tobytes())


def _rgb(values: npt.NDArray[np.float64]) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
