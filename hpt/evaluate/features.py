"""What a frozen model makes of images: pooled features of test views and of augmented views.

Several processes share the images out by rows, and each has the features of all of them in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hpt import augment, encoder
from hpt.callbacks import Progress
from hpt.config import AugmentConfig, EvaluateConfig, Pooling
from hpt.data.images import Images
from hpt.data.loader import raw_batch
from hpt.errors import HptError
from hpt.processes import Compute, Processes

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


def backbone_under_test(
    config: EvaluateConfig, images: Images, state: Mapping[str, Tensor], device: torch.device
) -> nn.Module:
    """As `load_backbone`, as an evaluation's configuration has it, for these images."""
    return load_backbone(
        config.backbone,
        state,
        device,
        channels=images.form.channels,
        first_conv=config.data.first_conv,
        image_size=config.image_size,
        pooling=config.pooling,
    )


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


def batch_of(count: int, processes: Processes) -> int:
    """How many of so many images are embedded at once, by each process: `BATCH`, unless some would have none."""
    return max(1, min(BATCH, -(-count // processes.count)))


def _by_rows(
    count: int, of: Callable[[Tensor], Tensor], processes: Processes | None, progress: Callable[[int], None]
) -> Tensor:
    """[count, ...]: what `of` gives for a batch of rows, for all rows, computed by all processes and known to each.

    One process takes batches of `BATCH`, and several the same ones, so that they come to the same bits, unless these
    would be fewer than the processes.
    """
    processes = processes or Processes(1, "cpu")
    batches = torch.arange(count).split(batch_of(count, processes))
    portions = processes.portions(batches)
    mine = portions[processes.rank]
    parts, done = [], 0
    for rows in mine or batches[:1]:  # who has none computes one that is not gathered, for its shape
        parts.append(of(rows))
        done += len(rows)
        progress(count * done // max(sum(map(len, mine)), done))
    counts = [sum(map(len, portion)) for portion in portions]
    return processes.gather(torch.cat(parts)[: counts[processes.rank]], counts)


def outputs(
    model: nn.Module,
    images: Images,
    size: int,
    compute: Compute,
    progress: Progress,
    what: str,
    processes: Processes | None = None,
) -> Tensor:
    """The model's outputs [n, ...] for the test views of `size` pixels, fp32 on the device; of several `processes`
    each computes its part, and has all."""

    def of(rows: Tensor) -> Tensor:
        raw = raw_batch(images, rows, compute.device)
        return model(augment.centre_view(raw, size, images.mean, images.std)).float()  # type: ignore[no-any-return]

    with frozen(model), compute.autocast():
        return _by_rows(len(images), of, processes, lambda done: progress(done, len(images), what))


def embed(
    backbone: nn.Module,
    images: Images,
    size: int,
    compute: Compute,
    progress: Progress,
    what: str,
    processes: Processes | None = None,
) -> Tensor:
    """Features [n, d] of the test views of `size` pixels, fp32 on the device.

    Raises:
        HptError: a feature is NaN or infinite.
    """
    features = outputs(backbone, images, size, compute, progress, what, processes)
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
    processes: Processes | None = None,
) -> Tensor:
    """Features [n, d] of augmented views of the images `rows` [n], fp32 on the device.

    Args:
        uniform: the random numbers [n, augment.COLUMNS] that determine the views.
        progress: called with the number of views that are done.
        processes: of several each computes its part, and has all.
    """

    def of(some: Tensor) -> Tensor:
        raw = raw_batch(images, rows[some], compute.device)
        view = augment.parameters(uniform[some], raw.sizes, augment.suited(policy, images.form.colours))
        seen = augment.train_view(raw, view, size, images.mean, images.std, policy.blur_sigma[1])
        return backbone(seen).float()  # type: ignore[no-any-return]

    with frozen(backbone), compute.autocast():
        return _by_rows(len(rows), of, processes, progress)
