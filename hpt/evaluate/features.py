"""What a frozen model makes of images: pooled features of test views and of augmented views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hpt import augment, encoder
from hpt.callbacks import Progress
from hpt.config import AugmentConfig, Pooling
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.errors import HptError
from hpt.processes import Compute

BATCH = 256


def load_backbone(
    architecture: str,
    state: Mapping[str, Tensor],
    device: torch.device,
    *,
    channels: int | None = None,
    first_conv: str = "repeat",
    image_size: int | None = None,
    pooling: Pooling = "own",
) -> nn.Module:
    """The encoder with these weights (its own keys, all of them), on the device.

    Raises:
        WeightsError: the weights are of neither RGB images nor such as have `channels`. ConfigError: it takes no images
            of this size, or has no class token to pool by.
    """
    backbone = encoder.loaded(
        architecture, state, channels=channels, first_conv=first_conv, image_size=image_size, pooling=pooling
    )
    return backbone.to(device)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients, and with BatchNorm in eval mode: in train mode it would move its running statistics."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def outputs(model: nn.Module, images: Images, size: int, compute: Compute, progress: Progress, what: str) -> Tensor:
    """The model's outputs [n, ...] for the test views of `size` pixels, fp32 on the device."""
    parts = []
    with frozen(model), compute.autocast():
        for rows in torch.arange(len(images)).split(BATCH):
            raw = raw_batch(images, rows, compute.device)
            parts.append(model(augment.centre_view(raw, size, images.mean, images.std)).float())
            progress(int(rows[-1]) + 1, len(images), what)
    return torch.cat(parts)


def embed(backbone: nn.Module, images: Images, size: int, compute: Compute, progress: Progress, what: str) -> Tensor:
    """Features [n, d] of the test views of `size` pixels, fp32 on the device.

    Raises:
        HptError: a feature is NaN or infinite.
    """
    features = outputs(backbone, images, size, compute, progress, what)
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
    compute: Compute,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Features [n, d] of augmented views of the images `rows` [n], fp32 on the device.

    Args:
        uniform: the random numbers [n, augment.COLUMNS] that determine the views.
        progress: called with the number of views that are done.
    """
    done = 0
    parts = []
    with frozen(backbone), compute.autocast():
        for some, numbers in zip(rows.split(BATCH), uniform.split(BATCH), strict=True):
            raw = raw_batch(images, some, compute.device)
            view = augment.parameters(numbers, raw.sizes, augment.suited(policy, images.form.colours))
            seen = augment.train_view(raw, view, size, images.mean, images.std, policy.blur_sigma[1])
            parts.append(backbone(seen).float())
            done += len(some)
            progress(done)
    return torch.cat(parts)
