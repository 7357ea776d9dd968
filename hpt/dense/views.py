"""What detectors and segmenters see: images resized, flipped and cropped together with their boxes or masks.

Each operation is torchvision v2's, on 8 bits where an image has no more. A batch is a function of the seed and the
step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpt.config import DetectionConfig, SegmentationConfig
from hpt.data.images import Images, full_scale
from hpt.dense.targets import IGNORED, Boxes, Mask

T = TypeVar("T")

AHEAD = 2
"""The number of batches that are made before they are needed."""
BETWEEN = 32
"""The distance in pixels of the shorter sides that training draws from."""
COLUMNS = 4
"""The uniform numbers of a view: size, flip, and the place of a crop."""


@dataclass(frozen=True)
class Normalisation:
    """By which a network's images are normalised."""

    mean: tuple[float, ...]
    """[C] in [0, 1]."""
    std: tuple[float, ...]
    """[C] in [0, 1]."""

    def of(self, image: Tensor) -> Tensor:
        """[C, H, W] of 8 bits, or in [0, 1], normalised."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        if image.dtype == torch.uint8:
            return image.to(torch.float32).sub_(mean * 255).div_(std * 255)
        return (image - mean) / std


def pixels(images: Images, row: int) -> Tensor:
    """[C, H, W] of an image: its 8 bits, which are resized in a third of the time, or more in [0, 1]."""
    raw = images.batch([row]).image(0)
    return raw if raw.dtype == torch.uint8 else raw.to(torch.float32) / full_scale(raw.dtype)


def fitted(height: int, width: int, side: int, longest: int) -> tuple[int, int]:
    """The size whose shorter side is `side`, and whose longer side is at most `longest`."""
    scale = min(side / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, H, W] -> [C, *size], antialiased."""
    from torchvision.transforms.v2.functional import resize

    if tuple(image.shape[1:]) == size:
        return image
    found: Tensor = resize(image, list(size), antialias=True)
    return found


def sides_of(config: DetectionConfig) -> list[int]:
    """The shorter sides that a training image may get."""
    low, high = min(config.sides), max(config.sides)
    return sorted({*range(low, high + 1, BETWEEN), high})


def training_size(size: Sequence[int], numbers: Sequence[float], config: DetectionConfig) -> tuple[int, int]:
    """The height and width that a training view has of an image of some `size`."""
    sides = sides_of(config)
    return fitted(size[0], size[1], sides[min(int(numbers[0] * len(sides)), len(sides) - 1)], config.longest)


def detection_view(
    image: Tensor, objects: Boxes, numbers: Sequence[float], config: DetectionConfig, norm: Normalisation
) -> tuple[Tensor, dict[str, Tensor]]:
    """A training view [C, H, W] and its targets: `boxes` [k, 4] and `labels` [k] from 1, without difficult ones."""
    height, width = image.shape[1:]
    size = training_size((height, width), numbers, config)
    image = resized(image, size)
    boxes = torch.from_numpy(objects.scaled(size[0] / height, size[1] / width).boxes[~objects.difficult])
    if numbers[1] < config.flip_p:
        image = image.flip(2)
        boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
    labels = torch.from_numpy(objects.labels[~objects.difficult]) + 1
    return norm.of(image), {"boxes": boxes, "labels": labels}


def segmentation_view(
    image: Tensor, mask: Mask, numbers: Sequence[float], config: SegmentationConfig, norm: Normalisation
) -> tuple[Tensor, Tensor]:
    """A training view [C, crop, crop] and its mask [crop, crop]; beside the image lie its mean, and ignored pixels."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    low, high = config.scale
    scale = low + (high - low) * numbers[0]
    height, width = image.shape[1:]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = norm.of(resized(image, size))
    classes = torch.from_numpy(np.ascontiguousarray(mask))[None]
    classes = resize(classes, list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]
    if numbers[1] < config.flip_p:
        image, classes = image.flip(2), classes.flip(1)
    crop = config.crop
    top, left = (int(share * (max(0, length - crop) + 1)) for share, length in zip(numbers[2:4], size, strict=True))
    image, classes = image[:, top : top + crop, left : left + crop], classes[top : top + crop, left : left + crop]
    view = image.new_zeros(len(image), crop, crop)
    view[:, : image.shape[1], : image.shape[2]] = image
    target = torch.full((crop, crop), IGNORED, dtype=torch.int64)
    target[: classes.shape[0], : classes.shape[1]] = classes
    return view, target


@contextmanager
def ahead(make: Callable[[int], T], steps: Iterator[int]) -> Iterator[Callable[[], T]]:
    """What `make` gives for one step after the other, made by a thread before it is asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="views") as pool:
        waiting: deque[Future[Any]] = deque()

        def more() -> None:
            step = next(steps, None)
            if step is not None:
                waiting.append(pool.submit(make, step))

        def following() -> T:
            found: T = waiting.popleft().result()
            more()
            return found

        for _ in range(AHEAD):
            more()
        try:
            yield following
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
