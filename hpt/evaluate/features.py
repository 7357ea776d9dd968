"""Pooled features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hpt import augment
from hpt.callbacks import Progress
from hpt.config import AugmentConfig
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.errors import HptError

BATCH = 256
View = Callable[[Tensor], Tensor]


@contextmanager
def frozen(backbone: nn.Module) -> Iterator[None]:
    """Without gradients, and with BatchNorm in eval mode: in train mode it would move its running statistics."""
    was = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.train(was)


def embed(
    backbone: nn.Module,
    images: Images,
    size: int,
    device: torch.device,
    *,
    bf16: bool,
    progress: Progress,
    what: str,
) -> Tensor:
    """Features [n, d] of the test views, fp32 on the device.

    Raises:
        HptError: NaN or infinity among them.
    """
    parts = []
    with frozen(backbone), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for rows in torch.arange(len(images)).split(BATCH):
            raw = raw_batch(images, rows, device)
            parts.append(backbone(augment.centre_view(raw, size, images.mean, images.std)).float())
            progress(int(rows[-1]) + 1, len(images), what)
    features = torch.cat(parts)
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise HptError(
            f"the features of {bad} of {len(images)} images are NaN or infinite",
            "these weights have diverged: take an earlier checkpoint, or look at the loss of the run that made them",
        )
    return features


def embed_views(
    backbone: nn.Module,
    images: Images,
    rows: Tensor,
    uniform: Tensor,
    policy: AugmentConfig,
    size: int,
    device: torch.device,
    *,
    bf16: bool,
) -> Tensor:
    """Features [n, d] of augmented views of the images `rows` [n], drawn by `uniform` [n, augment.COLUMNS]."""
    parts = []
    with frozen(backbone), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for some, numbers in zip(rows.split(BATCH), uniform.split(BATCH), strict=True):
            raw = raw_batch(images, some, device)
            view = augment.parameters(numbers, raw.sizes, policy)
            seen = augment.train_view(raw, view, size, images.mean, images.std, policy.blur_sigma[1])
            parts.append(backbone(seen).float())
    return torch.cat(parts)
