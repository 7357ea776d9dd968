"""The random numbers that a network draws in training: of each image its own.

Neither the other images of a batch nor the number of processes that share it change what is drawn of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

Masks = tuple[list[Tensor], list[Tensor]]


class Draws:
    """What the layers of one network draw from."""

    seeds: Sequence[int] = ()
    """Of the images of the batch that the network is given, in their order."""

    def of_each(self, purpose: int) -> Iterator[int]:
        """The position of one image after the other; until the next, torch's own generators draw of it.

        Args:
            purpose: a small number, by which two layers draw other numbers of the same image.
        """
        for at, seed in enumerate(self.seeds):
            torch.manual_seed(seed + purpose)
            yield at


class Sampler(Protocol):
    """torchvision's draw of anchors or proposals that a loss is computed of."""

    def __call__(self, matched: list[Tensor]) -> Masks:
        """Which object each proposal of each image matches -> the positive and the negative ones drawn, as masks."""


class SamplerByImage:
    """A sampler that draws of each image by itself."""

    def __init__(self, sampler: Sampler, draws: Draws, purpose: int) -> None:
        self.sampler, self.draws, self.purpose = sampler, draws, purpose
        self.drawn = torch.zeros(())
        """[] how many it drew of the last batch, over which their losses are a mean."""

    def __call__(self, matched: list[Tensor]) -> Masks:
        found = [self.sampler([matched[at]]) for at in self.draws.of_each(self.purpose)]
        positive, negative = ([masks[kind][0] for masks in found] for kind in (0, 1))
        self.drawn = torch.stack([mask.sum(dtype=torch.float32) for mask in (*positive, *negative)]).sum()
        return positive, negative


class DropoutByImage(nn.Dropout):
    """Dropout that draws of each image by itself."""

    def __init__(self, p: float, draws: Draws) -> None:
        super().__init__(p)
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> the same."""
        if not self.training:
            return x
        return torch.cat([super(DropoutByImage, self).forward(x[at : at + 1]) for at in self.draws.of_each(0)])
