"""Decoded images: in the cache's memory-mapped file, in the memory of a device, and as batches."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hpt.data.cache_store import EntryIndex
from hpt.data.pixel_format import PixelFormat
from hpt.data.thumbnails import SIDE, Thumbnails, thumbnail
from hpt.randomness import generator

if TYPE_CHECKING:
    from PIL import Image

    from hpt.data.stream import Stream

PerChannel = tuple[float, ...]
"""A figure for each channel."""

SMALLEST_STD = 1e-3
"""Images of one colour would otherwise be divided by zero."""
SUMMED = 1 << 16
"""Pixels of a channel that are summed at once: so many squares of 8 bits fit in 32, and no more."""
COUNTED = 1 << 15
"""Pixels of a channel from which on Pillow counts its values as quickly as NumPy sums them."""
_POWERS = np.arange(256, dtype=np.uint64) ** np.array([[1], [2]], dtype=np.uint64)
"""[2, 256] the values of a pixel of 8 bits, and their squares."""


PADDING, SMALL = 4, 2**22
"""A batch is padded in several parts where padding it as a whole would take more than so many times the pixels of its
images, and more than so many pixels: few wide and few tall images in one batch would else fill any memory."""


class Part(NamedTuple):
    """Images of a batch whose shapes are alike."""

    rows: torch.Tensor
    """int64 [m]: which of the batch's they are."""
    pixels: torch.Tensor
    """uint8 or uint16 [m, C, H, W]: each at the top left, padded with zeros to the largest of them."""


@dataclass(frozen=True)
class RawBatch:
    """A batch of images as the cache holds them."""

    pixels: torch.Tensor
    """uint8 or uint16 [n, C, H, W]: each image at the top left, padded with zeros to the largest of the batch; of no
    images where there are `parts`."""
    sizes: torch.Tensor
    """int64 [n, 2]: the height and width of each image."""
    parts: tuple[Part, ...] = ()
    """The images where their shapes differ too much for one padding."""
    in_place: tuple[npt.NDArray[Any], ...] = ()
    """[C, H, W] each image where it lies in main memory or in the cache's map: nothing has been copied, and `pixels`
    are of no images."""

    @property
    def dtype(self) -> torch.dtype:
        """The integers of the pixels."""
        return self.pixels.dtype

    @property
    def channels(self) -> int:
        """The channels of an image."""
        return self.pixels.shape[1]

    def padded(self) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor]]:
        """Rows of the batch and their pixels, as one or in parts; those in place are copied."""
        if not self.in_place:
            yield from self.parts or [(slice(None), self.pixels)]
        elif len(shapes := {image.shape for image in self.in_place}) == 1:
            yield slice(None), self._padded(range(len(self.in_place)), shapes.pop()[1:])
        else:
            sizes = self.sizes.numpy()
            for some in _alike(sizes):
                yield torch.from_numpy(some), self._padded(some.tolist(), sizes[some].max(axis=0).tolist())

    def _padded(self, rows: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        pixels = self.pixels.new_zeros(len(rows), self.channels, *size)
        for padded, image in zip(pixels.numpy(), (self.in_place[row] for row in rows), strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
        return pixels

    def array(self, row: int) -> npt.NDArray[Any]:
        """[C, H, W] an image of a batch in main memory, where it lies, without padding."""
        return self.in_place[row] if self.in_place else self.image(row).numpy()

    def image(self, row: int) -> torch.Tensor:
        """[C, H, W] an image of the batch, without padding."""
        if self.in_place:
            return torch.from_numpy(self.in_place[row])
        height, width = self.sizes[row].tolist()
        for part in self.parts:
            if len(at := (part.rows == row).nonzero()):
                return part.pixels[int(at), :, :height, :width]
        return self.pixels[row, :, :height, :width]

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> RawBatch:
        """The batch with its pixels at another place; sizes and rows stay, since crops are drawn on the CPU."""
        padded = list(self.padded())
        if not self.parts and len(padded) == 1:
            return RawBatch(move(padded[0][1]), self.sizes)
        parts = tuple(Part(rows, move(pixels)) for rows, pixels in padded if isinstance(rows, torch.Tensor))
        return RawBatch(move(self.pixels), self.sizes, parts)


@dataclass(frozen=True)
class PackedPixels:
    """Images of any sizes, packed one after the other: in a map, or in the memory of a device."""

    flat: torch.Tensor
    """uint8 or uint16 [total]: the pixels [C, H, W] of one image after the other."""
    sizes: npt.NDArray[np.int64]
    """[N, 2] the height and width of each image."""
    channels: int = 3

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[N] the index in `flat` at which each image starts."""
        lengths = self.channels * self.sizes.prod(axis=1)
        offsets: npt.NDArray[np.int64] = np.cumsum(lengths) - lengths
        return offsets

    @cached_property
    def equal(self) -> torch.Tensor | None:
        """`flat` as [N, C, H, W] where all images are of one size."""
        if (self.sizes == self.sizes[0]).all():
            return self.flat.view(-1, self.channels, *self.sizes[0].tolist())
        return None

    def image(self, row: int) -> torch.Tensor:
        """[C, H, W] one image, as a view."""
        height, width = self.sizes[row].tolist()
        start = int(self.offsets[row])
        length = self.channels * height * width
        return self.flat[start : start + length].view(self.channels, height, width)

    def array(self, row: int) -> npt.NDArray[Any]:
        """[C, H, W] one image in main memory, as a view."""
        height, width = self.sizes[row].tolist()
        start = int(self.offsets[row])
        length = self.channels * height * width
        plain: npt.NDArray[Any] = self._plain[start : start + length].reshape(self.channels, height, width)
        return plain

    @cached_property
    def _plain(self) -> npt.NDArray[Any]:
        return self.flat.numpy()

    def in_place(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        """Some images in main memory, where they lie."""
        rows = np.asarray(rows, dtype=np.int64)
        images = tuple(self.array(row) for row in rows.tolist())
        none = self.flat.new_zeros(0, self.channels, 0, 0)
        return RawBatch(none, torch.from_numpy(self.sizes[rows]), in_place=images)

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        """A copy of some images; images of one size cost one gather on a device, others a copy each and the padding."""
        rows = np.asarray(rows, dtype=np.int64)
        sizes = self.sizes[rows]
        if self.flat.device.type == "cpu":
            return self.in_place(rows).moved(lambda pixels: pixels)
        if self.equal is not None:
            there = torch.from_numpy(rows).to(self.flat.device, non_blocking=True)
            return RawBatch(_gather(self.equal, there), torch.from_numpy(sizes))
        alike = list(_alike(sizes))
        if len(alike) == 1:
            return RawBatch(self._padded(rows, sizes), torch.from_numpy(sizes))
        parts = tuple(Part(torch.from_numpy(some), self._padded(rows[some], sizes[some])) for some in alike)
        return RawBatch(self.flat.new_zeros(0, self.channels, 0, 0), torch.from_numpy(sizes), parts)

    def _padded(self, rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> torch.Tensor:
        pixels = self.flat.new_zeros(len(rows), self.channels, *sizes.max(axis=0).tolist())
        for padded, row, (height, width) in zip(pixels, rows.tolist(), sizes.tolist(), strict=True):
            padded[:, :height, :width] = self.image(row)
        return pixels

    def read_ahead(self, rows: npt.NDArray[np.int64]) -> None:
        """Have the system read images of the map that are needed soon, without waiting for the disk."""
        if _MADVISE is None or self.flat.device.type != "cpu":
            return
        base, size = self.flat.data_ptr(), self.flat.element_size()
        ends = np.append(self.offsets[1:], len(self.flat))
        for start, end in zip(self.offsets[rows].tolist(), ends[rows].tolist(), strict=True):
            page = (base + start * size) // mmap.PAGESIZE * mmap.PAGESIZE
            _MADVISE(ctypes.c_void_p(page), ctypes.c_size_t(base + end * size - page), mmap.MADV_WILLNEED)

    def on(self, device: torch.device, rows: npt.NDArray[np.int64]) -> PackedPixels:
        """A copy of some images in the memory of a device."""
        sizes = self.sizes[rows]
        flat = torch.empty(int(self.channels * sizes.prod(axis=1).sum()), dtype=self.flat.dtype, device=device)
        copy = PackedPixels(flat, sizes, self.channels)
        for place, row in enumerate(rows.tolist()):
            copy.image(place).copy_(self.image(row))
        return copy


def _alike(sizes: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The images of a batch in groups that keep the padding in bounds: parted where the shapes, or else the areas, lie
    farthest from each other."""
    waiting = [np.arange(len(sizes))]
    while waiting:
        some = waiting.pop()
        height, width = sizes[some].T
        whole = len(some) * int(height.max()) * int(width.max())
        if whole <= max(PADDING * int((height * width).sum()), SMALL) or len(some) == 1:
            yield some
            continue
        by = max(np.log(height / width), np.log(height * width), key=np.ptp)
        order = np.argsort(by, kind="stable")
        gap = 1 + int(np.diff(by[order]).argmax())
        waiting += [some[np.sort(order[gap:])], some[np.sort(order[:gap])]]


# Pixels in main memory are copied by NumPy, on one core. PyTorch would take all, from the thread that reads ahead: its
# team of workers then spins beside the model's, which made a whole step of a ResNet-18 at 32 px a quarter slower.


def _madvise() -> Callable[..., int] | None:
    """The C library's, of a map by its address: torch hides the map behind the tensor."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)


_MADVISE = _madvise()


def _gather(pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if pixels.dtype == torch.uint16:  # which not every device can select from
        return pixels.view(torch.int16).index_select(0, rows).view(torch.uint16)
    return pixels.index_select(0, rows)


def full_scale(dtype: torch.dtype) -> int:
    """The value of a pixel that is 1.0."""
    return torch.iinfo(dtype).max


def pixel_sums(pixels: npt.NDArray[Any], picture: Image.Image | None = None) -> npt.NDArray[np.uint64]:
    """[2, C] the sum of the pixels [C, H, W] of each channel and of their squares.

    `picture`: the same pixels where Pillow has them in mode RGB or L. Pillow counts the values of large ones without
    the interpreter's lock; NumPy holds it while it sums, so that two threads took as long as one after the other.
    """
    if picture is not None and pixels.dtype == np.uint8 and pixels[0].size >= COUNTED:
        counts = np.array(picture.histogram(), dtype=np.uint64).reshape(-1, 256)
        return _POWERS @ counts.T
    return _summed(pixels)


def _summed(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """In parts whose numbers stay in the processor's cache, and whose sums fit in 32 bits, which take half the time of
    64."""
    deep = pixels.dtype != np.uint8
    square, part = (np.uint32, np.uint64) if deep else (np.uint16, np.uint32)  # 65535 and 255 squared fit
    flat = pixels.reshape(len(pixels), -1)
    sums = np.zeros((2, len(flat)), dtype=np.uint64)
    for start in range(0, flat.shape[1], SUMMED):
        some = flat[:, start : start + SUMMED]
        sums[0] += some.sum(axis=1, dtype=part)
        sums[1] += np.square(some, dtype=square).sum(axis=1, dtype=part)
    return sums


def mean_std(sums: npt.NDArray[Any], pixels: float, white: int) -> tuple[PerChannel, PerChannel]:
    """The mean and standard deviation of each channel, in [0, 1], of the sums [2, C] of so many pixels and of their
    squares; `white` is the value of a pixel that is 1."""
    total = sums.astype(np.float64)
    mean = total[0] / pixels
    std = np.sqrt(np.maximum(total[1] / pixels - mean**2, 0))
    return tuple((mean / white).tolist()), tuple(np.maximum(std / white, SMALLEST_STD).tolist())


@dataclass(frozen=True)
class OpenEntry(EntryIndex):
    """One entry of the cache, opened."""

    pixels: PackedPixels
    """The pixels of all images, mapped from the disk and read-only."""
    kept_thumbnails: Thumbnails | None = None
    """[N, 256] the thumbnail of each image, mapped from the disk; None where the entry has none."""

    def mean_std(self, rows: npt.NDArray[np.int64]) -> tuple[PerChannel, PerChannel]:
        """The mean and standard deviation of all pixels of some images, in [0, 1], from exact integer sums."""
        return mean_std(self.sums[rows].sum(axis=0), float(self.sizes[rows].prod(axis=1).sum()), self.form.white)


class Images:
    """Images without labels: all that pretraining ever gets."""

    streamed = False
    """Whether they are read and decoded as they are needed (`hpt.data.stream`), rather than lie in the cache."""

    def __init__(self, entry: OpenEntry, rows: npt.NDArray[np.int64], mean: PerChannel, std: PerChannel) -> None:
        self._entry = entry
        self._rows = rows
        self.mean = mean
        """The mean of each channel, in [0, 1], to normalise with."""
        self.std = std
        """The standard deviation of each channel, in [0, 1], to normalise with."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """The size of all pixels."""
        form = self._entry.form
        return int(form.channels * form.dtype.itemsize * self._entry.sizes[self._rows].prod(axis=1).sum())

    @property
    def form(self) -> PixelFormat:
        """How the files became pixels."""
        return self._entry.form

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The relative posix names, one per image."""
        return tuple(self._entry.names[row] for row in self._rows)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[N, 2] the height and width of each image, as decoded."""
        return self._entry.sizes[self._rows]

    @property
    def originals(self) -> npt.NDArray[np.int64]:
        """[N, 3] the height and width of each image as it is shown, before any reduction, and the EXIF orientation by
        which it was turned; zeros where an entry of version 0.1 does not tell."""
        return self._entry.originals[self._rows]

    @property
    def digests(self) -> npt.NDArray[np.void]:
        """[N] a digest of 16 bytes of each file, which is the same for equal files, whatever they are called."""
        return self._entry.digests[self._rows].view("V16").ravel()

    @property
    def thumbnails(self) -> Thumbnails:
        """uint8 [N, 256] a grey thumbnail of each image, by which its copies are known (`hpt.data.thumbnails`).

        An entry of the cache that an earlier version made has none: they are computed, which reads all pixels.
        """
        if self._entry.kept_thumbnails is not None:
            return np.asarray(self._entry.kept_thumbnails[self._rows])
        made = [thumbnail(self._entry.pixels.image(row).numpy()) for row in self._rows.tolist()]
        return np.array(made, dtype=np.uint8).reshape(-1, SIDE**2)

    def fingerprint(self) -> str:
        """A hexadecimal digest of the pixels, their order, and what they are normalised with; names play no part."""
        entry, rows = self._entry, self._rows
        facts = f"{entry.form.model_dump_json(exclude_defaults=True)} {self.mean} {self.std}\n"
        digest = hashlib.sha256(facts.encode())
        for each in (entry.digests, entry.sizes, entry.sums):
            digest.update(each[rows].tobytes())
        return digest.hexdigest()

    def statistics(self) -> tuple[PerChannel, PerChannel]:
        """The mean and standard deviation of these images' own pixels, from which `mean` and `std` may differ."""
        return self._entry.mean_std(self._rows)

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Images:
        """Some of the images, in the order of `indices`, with the same mean and std."""
        return Images(self._entry, self._rows[np.asarray(indices, dtype=np.int64)], self.mean, self.std)

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> RawBatch:
        """A copy of some images."""
        return self._entry.pixels.batch(self._rows[np.asarray(indices, dtype=np.int64)])

    def in_place(self, indices: npt.NDArray[np.int64]) -> RawBatch:
        """Some images where they lie in the map, which must not be written to."""
        return self._entry.pixels.in_place(self._rows[indices])

    def read_ahead(self, indices: npt.NDArray[np.int64]) -> None:
        """Have the system read images that are needed soon, without waiting for the disk."""
        self._entry.pixels.read_ahead(self._rows[indices])

    def stream(self, plan: Iterator[torch.Tensor], ahead: int, share: float) -> Stream | None:
        """What reads and decodes the images that a plan asks for; None where they lie there, decoded.

        Args:
            plan: the indices of each batch to come.
            ahead: planned images whose pixels are made ahead.
            share: how often a pass of the plan shows each image, in the mean.
        """
        return None

    def shuffled(self, seed: int, number: int) -> torch.Tensor:
        """[N] the order of a pass over the images."""
        return torch.randperm(len(self), generator=generator(seed, "order", number))

    def on(self, device: torch.device) -> PackedPixels:
        """The images in the memory of a device, under the same indices: for small sets that are visited many times."""
        return self._entry.pixels.on(device, self._rows)
