"""Images that are decoded as a pretraining comes to them, for sets whose decoded images no disk holds.

What a step sees is a function of (seed, step), as with the cache, in another order. The images that lie together in a
few megabytes of a file are a chunk. A pass takes the chunks in random order; chunks that fill half of the buffer make
a pool, and the images of a pool are shuffled. So an image's neighbours in a batch come from as many places as a pool
has chunks, each chunk is read once in a pass, nothing has to be saved to go on with the same batches, and a process
reads the images of its own rows.

Memory holds the files of two pools, and the pixels of two steps.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt import cores
from hpt.callbacks import Progress
from hpt.data import decode
from hpt.data.images import Images, PackedPixels, PerChannel, RawBatch, mean_std, pixel_sums
from hpt.data.listing import Listing, Unreadable
from hpt.data.packed_images import ChunkedSource, Placed, ReadMany
from hpt.data.pixel_format import PixelFormat, Unmeasured
from hpt.data.thumbnails import SIDE, Thumbnails, thumbnail
from hpt.errors import DataError
from hpt.randomness import generator

log = logging.getLogger("hpt.data")

TOGETHER = 32
"""Images of a folder, a zip file or a list that make a chunk, in the order of their names."""
USUAL = 100 << 10
"""The bytes that such a file is reckoned to have."""
SAMPLE = 1024
"""The images, evenly spaced in the order of their names, whose mean and spread views are normalised by."""
TASK = 8
"""Images that a thread decodes at a time: one by one they would wait for the interpreter's lock."""
NAMED = 3
"""Unreadable images that are named as they come; all are counted."""


@dataclass(frozen=True, eq=False)
class Store:
    """Where images are read from, and how they become pixels."""

    listing: Listing
    side: int
    """The shorter side that images are reduced to, as in the cache."""
    form: PixelFormat
    buffer: int
    """Bytes of files that are held in memory."""
    max_unreadable: float
    """The share of unreadable images above which a run stops."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """The images that could not be read so far, and why."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def placed(self) -> Placed:
        """Where the images of the listing lie."""
        source, names = self.listing.source, self.listing.names
        if isinstance(source, ChunkedSource):
            return source.placed(names)
        rows = np.arange(len(names), dtype=np.int64)
        return Placed(rows // TOGETHER, rows, np.full(len(names), USUAL, dtype=np.int64))

    @property
    def readers(self) -> int:
        """The threads that read files."""
        source = self.listing.source
        return source.parallel if isinstance(source, ChunkedSource) else 4

    @contextmanager
    def open(self) -> Iterator[ReadMany]:
        """A reader of images of a chunk."""
        source = self.listing.source
        if isinstance(source, ChunkedSource):
            with source.open_chunks() as read_many:
                yield read_many
            return

        with source.open() as read:

            def one(name: str) -> bytes | str:
                try:
                    return read(name)
                except Unreadable as error:
                    return str(error)

            yield lambda names: [one(name) for name in names]

    def pixels(self, data: bytes | str, name: str) -> decode.Pixels:
        """The pixels [C, H, W] of an image's file, as the cache would hold them.

        Raises:
            Unreadable: it cannot be read. DataError: the format knows no window for it.
        """
        if isinstance(data, str):
            raise Unreadable(data)
        try:
            return np.ascontiguousarray(decode.decode(data, self.side, self.form))
        except Unmeasured:
            raise DataError(
                f"{name} holds numbers of a kind that none of the measured images has",
                "give their range by --set data.window=LOW:HIGH, or read all images into the cache",
            ) from None

    def set_aside(self, name: str, why: str) -> None:
        """Count an image that cannot be read, and name it.

        Raises:
            DataError: they are too many.
        """
        with self.lock:
            if name in self.unreadable:
                return
            self.unreadable[name] = why
            bad, total = len(self.unreadable), len(self.listing.names)
        if bad <= NAMED:
            log.warning("%s cannot be read (%s): another image is seen in its place", name, why)
        if bad > self.max_unreadable * total:
            raise DataError(
                f"{bad:,} of {total:,} images cannot be read so far, over the limit of {self.max_unreadable:.4g}: "
                f"{name} ({why})",
                "repair or remove them, or raise data.max_unreadable",
            )


class StreamedImages(Images):
    """Images that no cache holds."""

    def __init__(self, store: Store, rows: npt.NDArray[np.int64], mean: PerChannel, std: PerChannel) -> None:
        self.store = store
        self._rows = rows
        self.mean, self.std = mean, std

    streamed = True

    @property
    def bytes(self) -> int:
        """More than any memory has: they are never held together."""
        return 1 << 62

    @property
    def form(self) -> PixelFormat:
        return self.store.form

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.store.listing.names[row] for row in self._rows)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        raise NotImplementedError("the sizes of streamed images are not known before they are read")

    @property
    def originals(self) -> npt.NDArray[np.int64]:
        return self.sizes

    @property
    def has_digests(self) -> bool:
        """Whether digests of the files are known without reading them, as a pack has recorded them."""
        return self._digests is not None

    @property
    def digests(self) -> npt.NDArray[np.void]:
        assert self._digests is not None, "only a pack has recorded digests"
        return np.ascontiguousarray(self._digests[self._rows]).view("V16").ravel()

    @property
    def _digests(self) -> npt.NDArray[np.uint8] | None:
        source = self.store.listing.source
        return source.digests if isinstance(source, ChunkedSource) else None

    @property
    def thumbnails(self) -> Thumbnails:
        made = [thumbnail(image) for image in self.in_place(np.arange(len(self))).in_place]
        return np.array(made, dtype=np.uint8).reshape(-1, SIDE**2)

    def statistics(self) -> tuple[PerChannel, PerChannel]:
        return self.mean, self.std

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> StreamedImages:
        return StreamedImages(self.store, self._rows[np.asarray(indices, dtype=np.int64)], self.mean, self.std)

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        return self.in_place(np.asarray(indices, dtype=np.int64))

    def in_place(self, indices: npt.NDArray[np.int64]) -> RawBatch:
        """Some images, read and decoded now."""
        with Stream(self, iter([torch.from_numpy(np.asarray(indices))]), ahead=len(indices)) as stream:
            return stream.in_place(next(iter(stream)).numpy())

    def read_ahead(self, indices: npt.NDArray[np.int64]) -> None:
        pass

    def on(self, device: torch.device) -> PackedPixels:
        raise NotImplementedError("streamed images are never held together")

    def stream(self, plan: Iterator[Tensor], ahead: int, share: float) -> Stream:
        """Reads and decodes what a plan asks for, ahead of its use."""
        return Stream(self, plan, ahead=ahead, share=share)

    def shuffled(self, seed: int, number: int) -> Tensor:
        """[N] the order of a pass: chunks in random order, and the images of each pool of chunks shuffled."""
        random = generator(seed, "stream", number)
        order, starts, lengths, size = self._chunks
        chunks = torch.randperm(len(starts), generator=random).numpy()
        lengths = lengths[chunks]
        ends = np.cumsum(lengths)
        by_chunk = order[np.repeat(starts[chunks] - (ends - lengths), lengths) + np.arange(len(order))]
        filled = np.cumsum(size[chunks], dtype=np.float64)
        pools = max(1, -(-int(filled[-1]) // self.pool_bytes))
        pool = np.minimum((filled - size[chunks] / 2) * (pools / filled[-1]), pools - 1).astype(np.int64)
        drawn = torch.rand(len(order), generator=random, dtype=torch.float64).numpy()
        return torch.from_numpy(by_chunk[np.lexsort((drawn, np.repeat(pool, lengths)))])

    @property
    def pool_bytes(self) -> int:
        """The files of a pool: two of them fill the buffer."""
        return max(self.store.buffer // 2, 1)

    @cached_property
    def pool_images(self) -> int:
        """The images of a pool, about; those of the largest chunk at least, which is read at once."""
        _, _, lengths, size = self._chunks
        pools = max(1, -(-int(size.sum()) // self.pool_bytes))
        return max(-(-len(self) // pools), int(lengths.max()))

    @cached_property
    def _chunks(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """[N] the images as they lie; and of each chunk where it starts there, how many it has, and their bytes."""
        chunk, at, size = (column[self._rows] for column in self.store.placed)
        order = np.lexsort((at, chunk))
        _, starts, lengths = np.unique(chunk[order], return_index=True, return_counts=True)
        return order, starts, lengths, np.add.reduceat(np.maximum(size[order], 1), starts)

    @cached_property
    def chunk_of(self) -> npt.NDArray[np.int64]:
        """[N] the chunk that each image lies in."""
        return self.store.placed.chunk[self._rows]

    @cached_property
    def next_of(self) -> npt.NDArray[np.int64]:
        """[N] the image that lies behind each, the first behind the last: what is seen in place of an unreadable
        one."""
        order = self._chunks[0]
        following = np.empty(len(order), dtype=np.int64)
        following[order] = np.roll(order, -1)
        return following


class Stream:
    """Images in the order of a plan: files are read a chunk at a time, and decoded, before they are asked for."""

    def __init__(self, images: StreamedImages, plan: Iterator[Tensor], *, ahead: int, share: float = 2.0) -> None:
        """
        Args:
            plan: the indices of each batch to come.
            ahead: planned images whose pixels are made ahead.
            share: how often a pass of this plan shows each image, in the mean: twice, in two views, or less where
                several processes share the views.
        """
        self._images, self._store, self._plan = images, images.store, plan
        self._ahead, self._window = max(ahead, 1), max(round(2 * share * images.pool_images), ahead)
        self._planned: deque[Tensor] = deque()  # not given out yet; the first `_begun` of them are being decoded
        self._count, self._begun, self._decoding = 0, 0, 0
        self._uses, self._decoded_uses = Counter[int](), Counter[int]()
        self._files: dict[int, tuple[Future[list[bytes | str]], int]] = {}
        self._decoded: dict[int, tuple[Future[list[decode.Pixels]], int]] = {}
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._exhausted = False

    def __enter__(self) -> Stream:
        self._open.enter_context(decode.quiet())
        self._read_many = self._open.enter_context(self._store.open())
        self._readers = ThreadPoolExecutor(self._store.readers, thread_name_prefix="stream")
        self._decoders = ThreadPoolExecutor(cores.usable(), thread_name_prefix="decode")
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True)
        self._open.close()

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self._fill()
            if not self._planned:
                return
            with self._lock:
                self._count -= len(self._planned[0])
                self._decoding -= len(self._planned[0])
                self._begun -= 1
                batch = self._planned.popleft()
            yield batch

    def _fill(self) -> None:
        """Plan on where less than half of what may be held is planned, and begin to decode what comes next."""
        with self._lock:
            if not self._exhausted and self._count < max(self._window // 2, self._ahead):
                self._plan_on()
            while self._begun < len(self._planned) and (self._decoding < self._ahead or not self._begun):
                self._decode_on(self._planned[self._begun])

    def _plan_on(self) -> None:
        new: list[int] = []
        while self._count < self._window:
            batch = next(self._plan, None)
            if batch is None:
                self._exhausted = True
                break
            self._planned.append(batch)
            self._count += len(batch)
            for row in batch.tolist():
                if not self._uses[row]:
                    new.append(row)
                self._uses[row] += 1
        rows = np.array(new, dtype=np.int64)
        chunk = self._images.chunk_of[rows]
        first = dict(zip(chunk[::-1].tolist(), range(len(rows) - 1, -1, -1), strict=True))
        order = np.lexsort((chunk, [first[each] for each in chunk.tolist()]))  # what is needed first is read first
        for some in np.split(rows[order], np.flatnonzero(np.diff(chunk[order])) + 1):
            if len(some):
                names = [self._images.store.listing.names[self._images._rows[row]] for row in some]
                future = self._readers.submit(self._read_many, names)
                self._files |= {row: (future, i) for i, row in enumerate(some.tolist())}

    def _decode_on(self, batch: Tensor) -> None:
        rows = batch.tolist()
        new = list(dict.fromkeys(row for row in rows if not self._decoded_uses[row]))
        self._decoded_uses.update(rows)
        for start in range(0, len(new), TASK):
            some = new[start : start + TASK]
            future = self._decoders.submit(self._decode, some, [self._files[row] for row in some])
            self._decoded |= {row: (future, i) for i, row in enumerate(some)}
        self._begun += 1
        self._decoding += len(rows)

    def _decode(self, rows: list[int], files: list[tuple[Future[list[bytes | str]], int]]) -> list[decode.Pixels]:
        return [self._pixels(row, future.result()[i]) for row, (future, i) in zip(rows, files, strict=True)]

    def _pixels(self, row: int, data: bytes | str) -> decode.Pixels:
        for _ in range(len(self._images)):
            name = self._store.listing.names[self._images._rows[row]]
            try:
                return self._store.pixels(data, name)
            except Unreadable as error:
                self._store.set_aside(name, str(error))
                row = int(self._images.next_of[row])
                data = self._read_many([self._store.listing.names[self._images._rows[row]]])[0]
        raise DataError("none of the images can be read", "check the files")

    def in_place(self, indices: npt.NDArray[np.int64]) -> RawBatch:
        """The images `indices`, which this stream has given out.

        Raises:
            DataError: they could not be read.
        """
        rows = indices.tolist()
        with self._lock:
            waiting = [self._decoded[row] for row in rows]
        arrays = tuple(future.result()[i] for future, i in waiting)
        with self._lock:
            for row in rows:
                if _used(self._decoded_uses, row):
                    del self._decoded[row]
                if _used(self._uses, row):
                    del self._files[row]
        sizes = torch.tensor([image.shape[1:] for image in arrays], dtype=torch.int64).reshape(-1, 2)
        form = self._store.form
        none = torch.from_numpy(np.zeros((0, form.channels, 0, 0), dtype=form.dtype))
        return RawBatch(none, sizes, in_place=arrays)

    batch = in_place

    def read_ahead(self, indices: npt.NDArray[np.int64]) -> None:
        """Nothing: they are decoded already, or being decoded."""

    def lost(self, images: int) -> Exception | None:
        """What kept the next so many planned images from being decoded, for which this waits; None: nothing."""
        self._fill()
        with self._lock:
            futures: dict[int, Future[Any]] = {}
            for batch in list(self._planned)[: self._begun]:
                if images <= 0:
                    break
                images -= len(batch)
                futures |= {id(each): each for each, _ in (self._decoded[row] for row in batch.tolist())}
        found = (future.exception() for future in futures.values())
        return next((error for error in found if isinstance(error, Exception)), None)


def _used(uses: Counter[int], row: int) -> bool:
    """Count one use less; whether it was the last."""
    uses[row] -= 1
    if uses[row]:
        return False
    del uses[row]
    return True


def measured(
    store: Store, rows: npt.NDArray[np.int64], progress: Progress | None
) -> tuple[PerChannel, PerChannel, int]:
    """The mean and standard deviation of the pixels of `SAMPLE` of the images `rows`, in [0, 1], and their number.

    Raises:
        DataError: none of them can be read.
    """
    chosen = rows[np.unique((np.arange(min(SAMPLE, len(rows))) * len(rows)) // min(SAMPLE, len(rows)))]
    zeros = (0.0,) * store.form.channels
    images = StreamedImages(store, chosen, zeros, zeros)
    sums, pixels, seen = np.zeros((2, store.form.channels)), 0.0, 0
    parts = torch.arange(len(chosen)).split(2 * TASK)
    with Stream(images, iter(parts), ahead=4 * TASK * cores.usable(), share=1.0) as stream:
        for part in stream:
            for image in stream.in_place(part.numpy()).in_place:
                sums += pixel_sums(image)
                pixels += image[0].size
            seen += len(part)
            if progress is not None:
                progress(seen, len(chosen), "measuring mean and spread")
    mean, std = mean_std(sums, pixels, store.form.white)
    return mean, std, len(chosen)


def content_stamps(listing: Listing) -> npt.NDArray[np.uint8]:
    """[N, 16] what stands for the digests of files that have not been read: digests of their stamps."""
    stamps = list(listing.source.stamp(listing.names))[-len(listing.names) :]
    each = b"".join(hashlib.blake2b(stamp.encode("utf-8", "replace"), digest_size=16).digest() for stamp in stamps)
    return np.frombuffer(each, dtype=np.uint8).reshape(-1, 16)
