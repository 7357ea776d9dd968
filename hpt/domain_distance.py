"""How far images are from those that a backbone was trained on, by what the backbone itself has kept of them.

A base's training images are not at hand, but its BatchNorm layers hold the mean and the variance of each channel over
them. The same statistics of the images at hand, by the same layers, differ by how unlike the images are. It says
nothing of what an adaptation would bring: a far domain may gain much or nothing.

Each layer sees what the layers before it make of the images, normalised by their own statistics (as strategy `base`
estimates them), so that a shift counts once, where it arises, and not again in every layer above. Of a ResNet-18 that
was trained on Tiny ImageNet at 32 px, and 512 images each, its own images came to 0.02, as two halves of them do,
aerial photographs to 0.05, flowers to 0.06, traffic signs to 0.08, sketches to 0.11 and x-rays to 0.12; halves of these
to 0.01 to 0.02. In the network as it is its own images would come to 0.19, and their halves to 0.05.

Two things beside the domain enter it. A base's statistics are of augmented views, so its own images need not be at 0;
and of few images statistics differ by chance, which the distance of two halves of them shows.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpt.base_statistics import estimate_statistics
from hpt.callbacks import Progress
from hpt.data.images import Images
from hpt.errors import DataError, WeightsError
from hpt.randomness import generator
from hpt.representation import BatchNormDrift, batch_norm_drift

MOST = 2048
"""The most images that are looked at, drawn by seed."""
FEWEST = 8
"""Fewer images have no halves worth the name."""


@dataclass(frozen=True)
class DomainDistance:
    """The distance of some images, layer by layer."""

    images: int
    """The number of images looked at."""
    layers: Mapping[str, BatchNormDrift]
    """Of each BatchNorm layer, between what the backbone has kept and the images."""
    halves: Mapping[str, BatchNormDrift]
    """Likewise between two halves of the images: what chance makes of images of one domain."""

    @property
    def mean(self) -> float:
        """How far the channels' means lie apart, in standard deviations, averaged over channels and layers."""
        return statistics.fmean(each.mean for each in self.layers.values())

    @property
    def mean_of_halves(self) -> float:
        """The same of the two halves."""
        return statistics.fmean(each.mean for each in self.halves.values())


def domain_distance(
    backbone: nn.Module, images: Images, device: torch.device, progress: Progress, *, image_size: int, seed: int
) -> DomainDistance:
    """The distance of images from what a backbone's BatchNorm has kept; the backbone stays as it is.

    Views are the test views of `image_size` pixels, normalised by the images' own mean and spread as everywhere here,
    so that a mere change of brightness or contrast is no distance. Twice the images go forward through the backbone.

    Raises:
        WeightsError: the backbone has no BatchNorm, or its statistics are a fresh model's. DataError: too few images.
    """
    own = _copied(backbone.state_dict())
    layers = [key.removesuffix(".running_mean") for key in own if key.endswith(".running_mean")]
    if not layers:
        raise WeightsError("a network without BatchNorm has kept nothing of its images to compare with")
    if all(bool((own[f"{layer}.running_mean"] == 0).all()) for layer in layers):
        raise WeightsError("its BatchNorm statistics are those of a fresh model, which has seen no images")
    if len(images) < FEWEST:
        raise DataError(f"{len(images)} images are too few for two halves", f"{FEWEST} or more are needed")
    drawn = torch.randperm(len(images), generator=generator(seed, "domain"))[:MOST].numpy()

    def of(some: Images) -> dict[str, Tensor]:
        estimate_statistics(backbone, some, device, progress, image_size=image_size, seed=seed)
        return _copied(backbone.state_dict())

    try:
        whole = of(images.subset(drawn))
        first, second = (of(images.subset(half)) for half in (drawn[::2], drawn[1::2]))
    finally:
        backbone.load_state_dict(own)
        backbone.eval()
    return DomainDistance(len(drawn), batch_norm_drift(own, whole), batch_norm_drift(first, second))


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
