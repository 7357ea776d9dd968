"""What the steps of a pretraining look at: two views of each image, made on the device a micro-batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hpt import augment
from hpt.config import MICRO_BATCH_PIXELS, PretrainConfig
from hpt.data.images import Images, RawBatch
from hpt.data.loader import Feed, Order
from hpt.processes import Compute, Processes


class StepViews(NamedTuple):
    """One step's views, of which each process has its share; they are made as they are asked for, keys first."""

    query: Iterable[Tensor]
    """Micro-batches [m, C, s, s], normalised, on the device."""
    key: Iterable[Tensor]
    """Likewise, of the images in the order of `shuffle`."""
    shuffle: Tensor
    """[B] the place of each key among the queries."""


class Views:
    """The views of some steps, one step after the other, while the raw batches to come are read ahead.

    They are a function of the seed and the step for the whole batch of B images, of which this process makes its rows.
    """

    def __init__(self, config: PretrainConfig, images: Images, steps: Iterable[int], processes: Processes) -> None:
        """
        Raises:
            DataError: fewer images than one batch.
        """
        self.config, self.images, self.processes = config, images, processes
        self.augment = augment.suited(config.augment, images.form.colours)
        self.compute = Compute.of(config, processes.device)
        device = processes.device.type
        self.micro_batch = config.micro_batch(device)
        # Views made together: with fewer than 256 at 64 px the many small operations cost more than the pixels, with
        # more they leave a CPU's caches.
        few = max(MICRO_BATCH_PIXELS // config.image_size**2, 16)
        self.together = few if device == "cpu" else self.micro_batch
        self.order = Order(len(images), config.batch_size, config.seed, images.shuffled)
        self.own = 2 * config.batch_size // processes.count
        """The views of a step that this process makes."""
        self._feed = Feed(images, processes.device, self._plan(steps), ahead=2 * self.own, share=2 / processes.count)

    def __enter__(self) -> Self:
        self._feed.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._feed.__exit__(*error)

    def __call__(self, step: int) -> StepViews:
        """The views of the next of the steps, to be used up before those of another."""
        draw = self.order.draw(step)
        keys = self.augmented(draw.images[draw.shuffle], draw.key)
        return StepViews(self.augmented(draw.images, draw.query), keys, draw.shuffle)

    def lost(self) -> Exception | None:
        """What keeps the next step's images from being read, where they are streamed: it waits for them. None:
        nothing, and the step will have them all."""
        return self._feed.lost(self.own)

    def augmented(self, indices: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        """This process's views of the images `indices` [B], a micro-batch [m, C, s, s] at a time."""
        size = self.config.image_size
        mine = self.processes.share(indices).split(self.micro_batch)
        uniform = self.processes.share(augment.draw(len(indices), random)).split(self.micro_batch)
        for rows, numbers in zip(mine, uniform, strict=True):
            views = torch.empty(
                (len(rows), self.images.form.channels, size, size),
                device=self.compute.device,
                memory_format=self.compute.memory_format,
            )
            parts = (whole.split(self.together) for whole in (rows, numbers, views))
            for some, own, out in zip(*parts, strict=True):
                raw = self.read(some)
                view = augment.parameters(own, raw.sizes, self.augment)
                blur = self.augment.blur_sigma[1]
                augment.train_view(raw, view, size, self.images.mean, self.images.std, blur, out=out)
            yield views

    def read(self, indices: Tensor) -> RawBatch:
        """The raw images `indices`, the next that were planned, on the device."""
        return self._feed(indices)

    def _plan(self, steps: Iterable[int]) -> Iterator[Tensor]:
        """The raw batches to come, in the order in which `augmented` asks for them."""
        # Is ahead of the other by a pass.
        order = Order(len(self.images), self.config.batch_size, self.config.seed, self.images.shuffled)
        for step in steps:
            draw = order.draw(step)
            for indices in (draw.images[draw.shuffle], draw.images):
                for micro_batch in self.processes.share(indices).split(self.micro_batch):
                    yield from micro_batch.split(self.together)
