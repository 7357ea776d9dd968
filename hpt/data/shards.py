"""WebDataset shards: tars that are read in place, wherever they lie (`tar_index` has what a sample is)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt.callbacks import Progress
from hpt.data.file_kinds import LARGEST_FILE
from hpt.data.left_out import counted, counts
from hpt.data.listing import Note, Read, Unreadable
from hpt.data.packed_images import PackedImages, Placed, ReadMany
from hpt.data.remote import Files, RemoteFiles, StoredFile, in_parallel
from hpt.data.tar_index import LABELS, ShardIndex, index_of
from hpt.errors import DataError

CHUNK = 4 << 20
"""Bytes of a shard whose images are read at once: a request to an object store then takes longer than its way there and
back, and 256 MiB of images come from 64 places."""
GAP = 64 << 10
"""Bytes between two images that are read along with them rather than left out by another request."""
BLOCKS = 24
"""The chunks of shards behind an address that are kept while images are read one by one: 96 MiB."""
CAPTIONS = 2
"""Texts are classes where each has so many images or more in the mean; else they are captions."""


def read(
    files: Files, shards: Sequence[StoredFile], label_key: str | None, is_pack: bool, progress: Progress | None
) -> PackedImages:
    """The images of shards, shard by shard as they lie there.

    Args:
        label_key: the ending of the members that hold the label, or the key of `.json` members; None: what is there.
        is_pack: whether `hptctl datasets pack` wrote them, with an index beside each.

    Raises:
        DataError: a shard is torn or no tar, there are no images, or only some shards have labels.
    """
    key = None if label_key in (None, *LABELS) else label_key

    def index(shard: StoredFile) -> ShardIndex:
        return index_of(files, shard, is_pack, key)

    indices: list[ShardIndex] = []
    for found in in_parallel(files, index, shards):
        indices.append(found)
        if progress is not None:
            progress(len(indices), len(shards), "reading the shards' contents")
    names = _names(indices, shards)
    left_out = sum((Counter(each.left_out) for each in indices), Counter[str]())
    if not names:
        raise DataError(
            f"{files.said()} holds no images: {f'found {counts(left_out)}' if left_out else 'its shards are empty'}",
            "an image is a member such as 0001.jpg or 0001.png",
        )
    notes = [Note(f"left out of the shards: {counts(left_out)}", doubtful=False)] if left_out else []
    kind = _label_kind(indices, label_key, files.said(), notes)
    labels = None if kind is None else [label for each in indices for label in _column(each, kind)]
    which = np.repeat(np.arange(len(indices)), [len(each.names) for each in indices]).astype(np.int64)
    starts = np.array([start for each in indices for start in each.starts], dtype=np.int64)
    sizes = np.array([size for each in indices for size in each.sizes], dtype=np.int64)
    digests = None
    if all(each.digests is not None or not each.names for each in indices):
        known = bytes.fromhex("".join(digest for each in indices for digest in each.digests or ()))
        digests = np.frombuffer(known, dtype=np.uint8).reshape(-1, 16)

    def source(by_name: tuple[str, ...], order: npt.NDArray[np.int64]) -> Shards:
        own = None if digests is None else digests[order]
        return Shards(files, tuple(shards), by_name, which[order].astype(np.int32), starts[order], sizes[order], own)

    return PackedImages(names, which, labels, source, by_names=not is_pack, notes=tuple(notes))


def _names(indices: Sequence[ShardIndex], shards: Sequence[StoredFile]) -> list[str]:
    """The name of each image; with that of its shard before it where shards count from the beginning each."""
    names = [name for each in indices for name in each.names]
    if len(set(names)) == len(names):
        return names
    stems = [shard.name.removesuffix(".tar") for shard in shards]
    return [f"{stem}/{name}" for stem, each in zip(stems, indices, strict=True) for name in each.names]


def _label_kind(indices: Sequence[ShardIndex], asked: str | None, said: str, notes: list[Note]) -> str | None:
    """The ending of the members that hold the labels; None where there are none."""
    there = [kind for kind in LABELS if any(kind in each.labels for each in indices)]
    if asked in LABELS:
        if asked not in there:
            raise DataError(f"{said} has no labels in members that end in .{asked}", "correct data.label_column")
        return asked
    if asked is not None:
        if "json" not in there:
            raise DataError(f"{said} has no key '{asked}' in members that end in .json", "correct data.label_column")
        return "json"
    kind = next(iter(there), None)
    if kind == "txt":
        texts = [label for each in indices for label in _column(each, "txt") if label is not None]
        if len(texts) < CAPTIONS * len(set(texts)):
            many = counted(len(texts), "text")
            notes.append(
                Note(
                    f"{many} beside the images are read as captions, not as classes (data.label_column=txt makes them)"
                )
            )
            return None
    return kind


def _column(index: ShardIndex, kind: str) -> list[Any]:
    return index.labels.get(kind) or [None] * len(index.names)


@dataclass(frozen=True, eq=False)
class Shards:
    """A source of images by their names, in shards. It takes 28 bytes an image, and the names."""

    files: Files
    shards: tuple[StoredFile, ...]
    names: tuple[str, ...]
    """Sorted."""
    shard: npt.NDArray[np.int32]
    """[N] the number of the shard of each."""
    start: npt.NDArray[np.int64]
    """[N] where its bytes begin there."""
    size: npt.NDArray[np.int64]
    """[N] how many they are."""
    digests: npt.NDArray[np.uint8] | None = None
    """[N, 16] a digest of the bytes of each, where a pack has recorded it."""

    @property
    def parallel(self) -> int:
        return self.files.parallel

    @property
    def readers(self) -> int:
        """The threads that are worth having where images are read one by one."""
        return self.parallel if isinstance(self.files, RemoteFiles) else 1

    def rows(self, names: Iterable[str]) -> npt.NDArray[np.int64]:
        """The number of each name."""
        return np.array([bisect_left(self.names, name) for name in names], dtype=np.int64)

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        """The shard's size and version with the place in it, so that shards stay known when they are moved whole."""
        for row in self.rows(names).tolist():
            yield f"{self.shards[self.shard[row]].stamp} {self.start[row]} {self.size[row]}"

    def placed(self, names: Sequence[str]) -> Placed:
        rows = self.rows(names)
        most = max((shard.size for shard in self.shards), default=0) // CHUNK + 1
        chunk = self.shard[rows].astype(np.int64) * most + self.start[rows] // CHUNK
        return Placed(chunk, self.start[rows], self.size[rows])

    @contextmanager
    def open(self) -> Iterator[Read]:
        if isinstance(self.files, RemoteFiles):
            with _Blocks(self) as blocks:
                yield blocks.read
        else:
            yield self._read

    def _read(self, name: str) -> bytes:
        row = int(self.rows([name])[0])
        self._check_size(row)
        return self.files.read(self.shards[self.shard[row]].name, int(self.start[row]), int(self.size[row]))

    def _check_size(self, row: int) -> None:
        if (size := int(self.size[row])) > LARGEST_FILE:
            limit = LARGEST_FILE / 2**30
            raise Unreadable(f"{size / 2**30:.1f} GiB, above the limit of {limit:g} GiB: cut it into tiles")

    @contextmanager
    def open_chunks(self) -> Iterator[ReadMany]:
        yield self._read_many

    def _read_many(self, names: Sequence[str]) -> list[bytes | str]:
        """Images that lie near each other come by one read; what lies between them only where that is little."""
        rows = self.rows(names)
        found: dict[int, bytes | str] = {}
        for run in self._runs(rows[np.lexsort((self.start[rows], self.shard[rows]))].tolist()):
            try:
                for row in run:
                    self._check_size(row)
            except Unreadable as error:
                found |= dict.fromkeys(run, str(error))
                continue
            first, last = run[0], run[-1]
            begin = int(self.start[first])
            data = self.files.read(
                self.shards[self.shard[first]].name, begin, int(self.start[last] + self.size[last]) - begin
            )
            for row in run:
                at = int(self.start[row]) - begin
                found[row] = data[at : at + int(self.size[row])]
        return [found[row] for row in rows.tolist()]

    def _runs(self, rows: Sequence[int]) -> Iterator[list[int]]:
        run: list[int] = []
        for row in rows:
            if run:
                before = run[-1]
                near = self.start[row] - self.start[before] - self.size[before] <= GAP
                small = self.start[row] + self.size[row] - self.start[run[0]] <= 4 * CHUNK
                if not (self.shard[row] == self.shard[before] and near and small):
                    yield run
                    run = []
            run.append(row)
        if run:
            yield run


class _Blocks:
    """Images one by one from shards behind an address: by themselves where few of a chunk are asked for, else from the
    chunk, which is then read as a whole, with the next one ahead of its use."""

    def __init__(self, source: Shards) -> None:
        self._source, self._lock = source, threading.Lock()
        self._touched: set[tuple[int, int]] = set()
        self._blocks: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(source.parallel, thread_name_prefix="shards")

    def __enter__(self) -> _Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, name: str) -> bytes:
        source = self._source
        row = int(source.rows([name])[0])
        source._check_size(row)
        shard, start, size = int(source.shard[row]), int(source.start[row]), int(source.size[row])
        first, last = start // CHUNK, (start + size - 1) // CHUNK
        with self._lock:
            known = {(shard, first), (shard, first - 1)} & (self._touched | self._blocks.keys())
            self._touched.add((shard, first))
            if known and last - first < BLOCKS // 4:
                parts = [self._block(shard, number) for number in range(first, last + 2)][: last - first + 1]
            else:
                parts = []
        if not parts:
            return source.files.read(source.shards[shard].name, start, size)
        data = b"".join(part.result() for part in parts)
        at = start - first * CHUNK
        return data[at : at + size]

    def _block(self, shard: int, number: int) -> Future[bytes]:
        """A chunk, which is asked for where it is not there; the lock is held."""
        key = shard, number
        if key not in self._blocks:
            file = self._source.shards[shard]
            length = max(min(CHUNK, file.size - number * CHUNK), 0)
            self._blocks[key] = self._pool.submit(self._source.files.read, file.name, number * CHUNK, length)
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]
