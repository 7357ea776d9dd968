"""What each step sees: order of the images, shuffle of the keys, random numbers of the views, raw batches.

Everything is a function of (seed, step) for the whole global batch; a process takes its rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt.data.images import Images, PackedPixels, RawBatch
from hpt.data.stream import Stream
from hpt.errors import DataError
from hpt.randomness import generator

AHEAD = 3
"""The number of batches that are read before they are needed."""
RESIDENT_SHARE = 0.3
"""The share of a GPU's free memory that a set of images may take; the model and its activations need the rest."""


@dataclass(frozen=True)
class Draw:
    """One step's choices for the global batch of B images."""

    images: Tensor
    """[B] the indices of the images, in the order of the queries."""
    shuffle: Tensor
    """[B] the order in which the keys' groups see them: key row j shows image `images[shuffle[j]]`."""
    query: torch.Generator
    """The generator of the query views."""
    key: torch.Generator
    """The generator of the key views."""


class Order:
    """The order of endless passes over the images, each its own; the incomplete last batch of a pass is dropped."""

    def __init__(
        self, images: int, batch_size: int, seed: int, shuffled: Callable[[int, int], Tensor] | None = None
    ) -> None:
        """
        Args:
            shuffled: the order [images] of a pass, from the seed and its number; None: any order is as likely.

        Raises:
            DataError: fewer images than one batch.
        """
        if images < batch_size:
            largest = 1 << max(images.bit_length() - 1, 2)
            fix = f"use --batch-size {largest}" if images >= 4 else "add images"
            raise DataError(f"{images} images do not fill one batch of {batch_size}", fix)
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self._shuffled = shuffled or self._drawn
        self._pass: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Tensor:
        """[B] the images of a step."""
        number, at = divmod(step, self.images // self.batch_size)
        if self._pass is None or self._pass[0] != number:
            self._pass = (number, self._shuffled(self.seed, number))
        return self._pass[1][at * self.batch_size : (at + 1) * self.batch_size]

    def _drawn(self, seed: int, number: int) -> Tensor:
        return torch.randperm(self.images, generator=generator(seed, "order", number))

    def draw(self, step: int) -> Draw:
        """All choices of a step."""
        return Draw(
            images=self.batch(step),
            shuffle=torch.randperm(self.batch_size, generator=generator(self.seed, "shuffle", step)),
            query=generator(self.seed, "query view", step),
            key=generator(self.seed, "key view", step),
        )


def raw_batch(images: Images, indices: Tensor, device: torch.device) -> RawBatch:
    """Pixels of the images on the device (on a CPU in place); their sizes stay on the CPU, where crops are drawn."""
    if device.type == "cpu":
        return images.in_place(indices.numpy())
    return images.batch(indices.numpy()).moved(lambda pixels: pixels.to(device))


class Feed:
    """Raw batches in the order in which they will be asked for, read ahead by a thread.

    Where all images fit in a part of a GPU's free memory they are put there once. Else they come from the map through
    page-locked memory on a stream of their own, so that neither the disk nor the copy keeps the model waiting; on a CPU
    they stay in the map, and the system is told which are next. Memory holds `AHEAD` batches, however large the set.
    Images that are streamed are read and decoded ahead, too.
    """

    def __init__(
        self, images: Images, device: torch.device, plan: Iterator[Tensor], ahead: int = 1, share: float = 2.0
    ) -> None:
        """`plan` gives the indices of each batch to come; `ahead` and `share` as for `Images.stream`."""
        self.mean, self.std = images.mean, images.std
        self._device = device
        self._decoding = images.stream(plan, ahead, share)
        self._plan = plan
        self._images: Images | PackedPixels | Stream = self._decoding or images
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            if images.bytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                self._images = images.on(device)
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead: deque[tuple[Tensor, Future[tuple[RawBatch, torch.cuda.Event | None]]]] = deque()

    def __enter__(self) -> Feed:
        if self._decoding is not None:
            self._decoding.__enter__()
            self._plan = iter(self._decoding)
        for _ in range(AHEAD):
            self._read_on()
        return self

    def __exit__(self, *error: object) -> None:
        if self._decoding is not None:
            self._decoding.__exit__(*error)
        self._thread.shutdown(wait=True, cancel_futures=True)

    def lost(self, images: int) -> Exception | None:
        """What keeps so many images to come from being read, where they are streamed, for which this waits; None:
        nothing."""
        if self._decoding is None:
            return None
        for planned, future in self._ahead:
            if images <= 0:
                return None
            images -= len(planned)
            if isinstance(error := future.exception(), Exception):
                return error
        return self._decoding.lost(images)

    def __call__(self, indices: Tensor) -> RawBatch:
        """The batch of `indices`, which has to be the next of the plan.

        Raises:
            ValueError: it is not. Whatever reading raises, such as an OSError.
        """
        planned, future = self._ahead.popleft()
        if not torch.equal(planned, indices):
            raise ValueError("a batch was asked for that is not the next of the plan")
        self._read_on()
        raw, copied = future.result()
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for _, pixels in raw.padded():
                pixels.record_stream(current)  # or its memory would be used anew while this stream reads it
        return raw

    def _read_on(self) -> None:
        indices = next(self._plan, None)
        if indices is not None:
            self._ahead.append((indices, self._thread.submit(self._read, indices)))

    def _read(self, indices: Tensor) -> tuple[RawBatch, torch.cuda.Event | None]:
        if self._stream is None:
            if self._device.type == "cpu":
                self._images.read_ahead(indices.numpy())
                return self._images.in_place(indices.numpy()), None
            return self._images.batch(indices.numpy()).moved(lambda pixels: pixels.to(self._device)), None
        with torch.cuda.stream(self._stream):
            raw = self._images.batch(indices.numpy())
            if not raw.pixels.is_cuda:
                raw = raw.moved(lambda pixels: pixels.pin_memory().to(self._device, non_blocking=True))
            return raw, self._stream.record_event()
