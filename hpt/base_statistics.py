"""BatchNorm's running statistics of the target images, for weights that stay as they are: a base's, or random ones."""

from __future__ import annotations

import torch
from torch import nn

from hpt import augment
from hpt.callbacks import Progress
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.errors import DataError
from hpt.randomness import generator

GROUP = 64
"""Images that are normalised together, as in pretraining."""


@torch.no_grad()
def estimate_statistics(
    backbone: nn.Module, images: Images, device: torch.device, progress: Progress, *, image_size: int, seed: int
) -> dict[str, float]:
    """Give BatchNorm the averages of its means and variances over one pass of test views; returns `images`, their
    number. A network without BatchNorm stays as it is.

    The views are of `image_size` pixels. The groups are of 64 images, drawn by `seed`, the last one smaller; one of
    a single image is left out: its variance over a 1 x 1 feature map does not exist.

    Raises:
        DataError: a single image.
    """
    if len(images) < 2:
        raise DataError("one image has no statistics", "add images")
    backbone.to(device).train()
    norms = [each for each in backbone.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    own = [bn.momentum for bn in norms]
    if not norms:
        return {"images": float(len(images))}
    for bn in norms:
        bn.reset_running_stats()
        bn.momentum = None  # cumulative average
    seen = 0
    order = torch.randperm(len(images), generator=generator(seed, "statistics"))
    for group in order.split(GROUP):  # shuffled: groups of one class would bias the variance
        if len(group) > 1:
            raw = raw_batch(images, group, device)
            backbone(augment.centre_view(raw, image_size, images.mean, images.std))
        seen += len(group)
        progress(seen, len(images), "estimating statistics")
    for bn, momentum in zip(norms, own, strict=True):
        bn.momentum = momentum
    return {"images": float(len(images))}
