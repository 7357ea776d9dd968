"""What each step sees: order of the images, shuffle of the keys, random numbers of the views, raw batches.

Everything is a function of (seed, step) for the whole global batch; a process takes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpt.data.cache import Images, RawBatch
from hpt.errors import DataError
from hpt.randomness import generator


@dataclass(frozen=True)
class Draw:
    """One step's choices for the global batch of B images."""

    images: Tensor
    """[B] indices of the images, in the order of the queries."""
    shuffle: Tensor
    """[B] the order in which the keys' groups see them: key row j shows image `images[shuffle[j]]`."""
    query: torch.Generator
    key: torch.Generator


class Order:
    """Endless passes over the images, each in its own order; an incomplete last batch of a pass is dropped."""

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        """
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
        self._pass: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Tensor:
        """[B] the images of a step."""
        number, at = divmod(step, self.images // self.batch_size)
        if self._pass is None or self._pass[0] != number:
            order = torch.randperm(self.images, generator=generator(self.seed, "order", number))
            self._pass = (number, order)
        return self._pass[1][at * self.batch_size : (at + 1) * self.batch_size]

    def draw(self, step: int) -> Draw:
        """All that a step draws."""
        return Draw(
            images=self.batch(step),
            shuffle=torch.randperm(self.batch_size, generator=generator(self.seed, "shuffle", step)),
            query=generator(self.seed, "query view", step),
            key=generator(self.seed, "key view", step),
        )


def raw_batch(images: Images, indices: Tensor, device: torch.device) -> RawBatch:
    """Pixels of the images on the device; their sizes stay on the CPU, where crops are drawn."""
    raw = images.batch(indices.numpy())
    if device.type == "cpu":
        return raw
    pixels = raw.pixels.pin_memory() if device.type == "cuda" else raw.pixels
    return RawBatch(pixels.to(device, non_blocking=True), raw.sizes)
