"""What a run sees of some images, as 8-bit pixels for a person to look at: the image in the cache, its test view, and
random views as pretraining draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt import augment
from hpt.config import PretrainConfig
from hpt.data import decode
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.data.pixel_format import PLAIN, PixelFormat, eight_bits, first_shown
from hpt.data.splits import Indices
from hpt.errors import ConfigError, DataError, did_you_mean
from hpt.randomness import generator

ImagePixels = npt.NDArray[np.uint8]

GREY = 207
"""The value of all channels around an image in a square."""


@dataclass(frozen=True)
class PreviewedImage:
    """One image, as a run sees it."""

    cached: ImagePixels
    """[H, W, 3] the image in the cache."""
    centre: ImagePixels
    """[s, s, 3] the test view."""
    views: ImagePixels
    """[v, s, s, 3] the views of pretraining."""


def choose(dataset: Dataset, split: str, count: int, seed: int) -> Indices:
    """Up to `count` images of a split, drawn by `seed`, one of each class before a second of any; sorted by class.

    Raises:
        ConfigError: the split does not exist. DataError: the split has no images.
    """
    if split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise ConfigError(f"unknown split '{split}'{did_you_mean(split, dataset.splits)}", f"choose one of {known}")
    rows = dataset.splits[split]
    if not len(rows):
        there = ", ".join(name for name, indices in dataset.splits.items() if len(indices))
        raise DataError(f"{dataset.name} has no {split} images", f"choose one of {there}")
    rows = rows[torch.randperm(len(rows), generator=generator(seed, "preview images")).numpy()]
    if dataset.labels.ndim == 2:
        return np.sort(rows[:count])
    turn = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(dataset.labels[rows]):
        mine = dataset.labels[rows] == label
        turn[mine] = np.arange(mine.sum())
    chosen = rows[np.argsort(turn, kind="stable")][:count]
    by_class: Indices = chosen[np.lexsort((chosen, dataset.labels[chosen]))]
    return by_class


def look(
    images: Images, config: PretrainConfig, views: int, channels: tuple[int, int, int] | None = None
) -> list[PreviewedImage]:
    """Each of the images, with `views` random views by the configuration's augmentation and seed.

    `channels` are those shown as red, green and blue, where there are more or fewer than three.
    """
    channels = channels or first_shown(images.form.channels)
    indices = range(len(images))
    raw = images.batch(indices)
    size, mean, std = config.image_size, images.mean, images.std
    drawn = []
    for number in range(views):
        uniform = augment.draw(len(images), generator(config.seed, "preview", number))
        view = augment.parameters(uniform, raw.sizes, augment.suited(config.augment, images.form.colours))
        seen = augment.train_view(raw, view, size, mean, std, config.augment.blur_sigma[1])
        drawn.append(_pixels(seen, images, channels))
    centre = _pixels(augment.centre_view(raw, size, mean, std), images, channels)
    return [
        PreviewedImage(
            cached=shown(raw.image(i), channels),
            centre=centre[i],
            views=np.stack([view[i] for view in drawn]),
        )
        for i in indices
    ]


def in_square(data: bytes, side: int, form: PixelFormat = PLAIN) -> ImagePixels:
    """[side, side, 3] an image file's pixels in the middle of a grey square: reduced, or enlarged by whole pixels.

    Raises:
        Unreadable: as `decode.decode`.
    """
    pixels = shown(torch.from_numpy(decode.decode(data, side, form)[:, :side, :side]))
    pixels = np.kron(pixels, np.ones((side // max(pixels.shape[:2]),) * 2 + (1,), dtype=np.uint8))
    square = np.full((side, side, 3), GREY, dtype=np.uint8)
    top, left = ((side - length) // 2 for length in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def shown(image: Tensor, channels: tuple[int, int, int] | None = None) -> ImagePixels:
    """[H, W, 3] of 8 bits, of an image of any channels [C, H, W] and of 8 or 16 bits."""
    pixels = image.numpy()[list(channels or first_shown(len(image)))].transpose(1, 2, 0)
    return eight_bits(pixels)


def _pixels(views: Tensor, images: Images, channels: tuple[int, int, int]) -> ImagePixels:
    """Normalised [n, C, s, s] -> [n, s, s, 3] of 0 to 255."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (images.mean, images.std))
    views = (views * std + mean)[:, list(channels)]
    shown: ImagePixels = views.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return shown
