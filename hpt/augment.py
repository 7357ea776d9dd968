"""Views of images: batched, on the device of the images, every image with its own random parameters.

A view is drawn in two moves. `draw` takes uniform numbers for a whole global batch from one generator, so each
process can take its rows; `parameters` turns rows into crops, colours and blurs; `train_view` applies them. For given
parameters each operation equals torchvision's functional transform on float images.

Cropping, resizing and flipping are one product with two small matrices per image (a row holds the antialiased
triangle filter of one output pixel), and so is the Gaussian blur: dense matrices of an image's size cost less than
per-image convolutions, and batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt.config import AugmentConfig
from hpt.data.cache import RawBatch

ATTEMPTS = 10
"""Crops tried before the central one, as in torchvision's RandomResizedCrop."""
ASPECT = (3 / 4, 4 / 3)
COLUMNS = 2 * ATTEMPTS + 2 + 1 + 1 + 4 + 4 + 1 + 2
"""Uniform numbers per view: crop areas and aspects, position, flip, jitter, its factors, their order, gray, blur."""
RESIZE = 256 / 224
"""The test view is the centre of the image resized to this multiple of the view."""
LUMA = (0.2989, 0.587, 0.114)
BLUR_SIGMAS = 3
"""The Gaussian is cut at so many standard deviations of its widest: 0.3 % of it."""


@dataclass(frozen=True)
class View:
    """Parameters of one view of each of n images, on the CPU; every field has n rows."""

    box: Tensor
    """[n, 4] top, left, height, width of the crop, whole pixels of the image."""
    flip: Tensor
    """[n] bool: mirrored left to right."""
    jitter: Tensor
    """[n] bool: brightness, contrast, saturation and hue change."""
    factors: Tensor
    """[n, 4] brightness, contrast and saturation as factors, hue as a turn in [-0.5, 0.5]."""
    order: Tensor
    """[n, 4] the order in which the four apply."""
    grayscale: Tensor
    """[n] bool."""
    sigma: Tensor
    """[n] standard deviation of the blur, pixels of the view; 0 for none."""


def crop_policy(min_scale: float) -> AugmentConfig:
    """Random resized crop and flip only: the training view of the probes."""
    return AugmentConfig(min_scale=min_scale, jitter_p=0, grayscale_p=0, blur_p=0)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers of n views, [n, COLUMNS] in [0, 1)."""
    return torch.rand(n, COLUMNS, generator=generator, dtype=torch.float64)


def parameters(uniform: Tensor, sizes: Tensor, config: AugmentConfig) -> View:
    """The view that `uniform` [n, COLUMNS] stands for, of images of `sizes` [n, 2] (height, width)."""
    area, aspect, place, flip, jitter, strength, order, gray, blur = uniform.split(
        [ATTEMPTS, ATTEMPTS, 2, 1, 1, 4, 4, 1, 2], dim=1
    )
    reach = torch.tensor([config.brightness, config.contrast, config.saturation, config.hue], dtype=uniform.dtype)
    spread = (2 * strength - 1) * reach
    factors = torch.cat([(1 + spread[:, :3]).clamp(min=0), spread[:, 3:]], dim=1)
    low, high = config.blur_sigma
    sigma = low + (high - low) * blur[:, 1]
    return View(
        box=_boxes(area, aspect, place, sizes, config.min_scale),
        flip=flip[:, 0] < config.flip_p,
        jitter=jitter[:, 0] < config.jitter_p,
        factors=factors.float(),
        order=order.argsort(dim=1),
        grayscale=gray[:, 0] < config.grayscale_p,
        sigma=torch.where(blur[:, 0] < config.blur_p, sigma, 0.0).float(),
    )


def train_view(
    raw: RawBatch,
    view: View,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    sigma_max: float = 2.0,
) -> Tensor:
    """Augmented, normalised images, [n, 3, size, size] fp32 on the device of `raw.pixels`."""
    device = raw.pixels.device
    # Rows are picked while the parameters are on the CPU: on a GPU each `nonzero` would wait for the device.
    images = crop(raw, view.box, view.flip, size)
    for operation, rows in _jitter_slots(view):
        factor = view.factors[rows, operation].to(device).view(-1, 1, 1, 1)
        rows = rows.to(device)
        images[rows] = JITTER[operation](images[rows], factor)
    if len(rows := view.grayscale.nonzero()[:, 0]):
        rows = rows.to(device)
        images[rows] = luma(images[rows]).expand(-1, 3, -1, -1)
    if len(rows := (view.sigma > 0).nonzero()[:, 0]):
        sigma, rows = view.sigma[rows].to(device), rows.to(device)
        images[rows] = gaussian_blur(images[rows], sigma, sigma_max)
    return _normalise(images, mean, std)


def centre_view(raw: RawBatch, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The centre of each image resized to 256/224 of `size`, normalised: [n, 3, size, size] fp32."""
    sizes = raw.sizes.double()
    short = sizes.min(dim=1, keepdim=True).values
    new = (round(size * RESIZE) * sizes / short).floor()  # torchvision truncates the longer side
    scale = sizes / new
    start = ((new - size) / 2).round() * scale  # and rounds half a margin to even
    bounds = torch.stack([torch.zeros_like(sizes), sizes], dim=2)
    images = _resample(raw.pixels, start, scale, bounds, size, flip=None)
    return _normalise(images, mean, std)


def crop(raw: RawBatch, box: Tensor, flip: Tensor | None, size: int) -> Tensor:
    """Each image's box resized to [size, size] with an antialiased bilinear filter, fp32 in [0, 1]."""
    box = box.double()
    start, extent = box[:, :2], box[:, 2:]
    bounds = torch.stack([start, start + extent], dim=2)
    return _resample(raw.pixels, start, extent / size, bounds, size, flip)


def luma(images: Tensor) -> Tensor:
    """[n, 3, h, w] -> [n, 1, h, w]: ITU-R 601-2 luma, as torchvision and Pillow."""
    red, green, blue = images.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """images * factor, in [0, 1]."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the mean luma of each image."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, each pixel's luma."""
    return torch.lerp(luma(images), images, factor).clamp_(0, 1)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue of HSV, turned by `turn` of a full circle."""
    red, green, blue = images.unbind(1)
    value, chroma, sixth = _to_hue(red, green, blue)
    sixth = sixth + 6 * turn[:, 0]
    channels = []
    for offset in (5, 3, 1):  # red, green, blue: value - chroma * trapezoid of the hue
        k = (sixth + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


JITTER = (brightness, contrast, saturation, hue)


def gaussian_blur(images: Tensor, sigma: Tensor, sigma_max: float) -> Tensor:
    """Each image blurred with its own sigma [n], mirrored at the edges; the kernel has one length for all."""
    size = images.shape[-1]
    radius = min(math.ceil(BLUR_SIGMAS * sigma_max), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    index = (torch.arange(size, device=images.device)[:, None] + offsets).abs()
    index = torch.where(index >= size, 2 * (size - 1) - index, index)
    matrix = images.new_zeros(len(images), size, size)
    matrix.scatter_add_(2, index.expand(len(images), -1, -1), kernel[:, None].expand(-1, size, -1))
    return _both_sides(matrix, images, matrix)


def _to_hue(red: Tensor, green: Tensor, blue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return value, chroma, sixth


def _jitter_slots(view: View) -> list[tuple[int, Tensor]]:
    """(operation, rows) in an order in which every image sees its four operations as drawn."""
    return [
        (operation, rows)
        for slot in range(4)
        for operation in range(4)
        if len(rows := (view.jitter & (view.order[:, slot] == operation)).nonzero()[:, 0])
    ]


def _boxes(area: Tensor, aspect: Tensor, place: Tensor, sizes: Tensor, min_scale: float) -> Tensor:
    """torchvision's RandomResizedCrop.get_params for each row: the first of ten crops that fits, else the centre."""
    height, width = sizes[:, :1].double(), sizes[:, 1:].double()
    wanted = height * width * (min_scale + (1 - min_scale) * area)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    ratio = torch.exp(low + (high - low) * aspect)
    w, h = (wanted * ratio).sqrt().round(), (wanted / ratio).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h = w.gather(1, first), h.gather(1, first)

    whole = width / height
    centre_w = torch.where(whole > ASPECT[1], (height * ASPECT[1]).round(), width)
    centre_h = torch.where(whole < ASPECT[0], (width / ASPECT[0]).round(), height)
    found = fits.any(dim=1, keepdim=True)
    w, h = torch.where(found, w, centre_w), torch.where(found, h, centre_h)
    top = torch.where(found, (place[:, :1] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(found, (place[:, 1:] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.cat([top, left, h, w], dim=1).long()


def _resample(pixels: Tensor, start: Tensor, scale: Tensor, bounds: Tensor, size: int, flip: Tensor | None) -> Tensor:
    """Rows and columns of each image under triangle filters: [n, 3, size, size] in [0, 1].

    Output pixel i lies at `start + (i + 0.5) * scale` of the image (start and scale [n, 2]: rows, columns), sees a
    triangle of half-width max(scale, 1), and nothing outside `bounds` [n, 2, 2].
    """
    device = pixels.device
    exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
    start, scale, bounds = (t.to(device, exact) for t in (start, scale, bounds))
    rows = _filters(start[:, 0], scale[:, 0], bounds[:, 0], size, pixels.shape[2])
    columns = _filters(start[:, 1], scale[:, 1], bounds[:, 1], size, pixels.shape[3])
    if flip is not None:
        columns = torch.where(flip.to(device)[:, None, None], columns.flip(1), columns)
    return _both_sides(rows, pixels.float(), columns).mul_(1 / 255).clamp_(0, 1)


def _filters(start: Tensor, scale: Tensor, bounds: Tensor, size: int, length: int) -> Tensor:
    device = start.device
    centre = start[:, None] + (torch.arange(size, device=device, dtype=start.dtype) + 0.5) * scale[:, None]
    at = torch.arange(length, device=device, dtype=start.dtype)
    weight = 1 - (at + 0.5 - centre[:, :, None]).abs() / scale.clamp(min=1)[:, None, None]
    inside = (at >= bounds[:, :1, None]) & (at < bounds[:, 1:, None])
    weight = torch.where(inside, weight.clamp_(min=0), 0.0)
    return (weight / weight.sum(dim=2, keepdim=True)).float()


def _both_sides(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows [n, a, h] @ images [n, c, h, w] @ columns^T [n, w, b] -> [n, c, a, b]."""
    n, channels, height, width = images.shape
    across = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], across.view(n, channels, height, -1))


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return images.sub_(shift).div_(scale)
