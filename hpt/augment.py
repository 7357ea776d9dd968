"""Views of images: batched, on the device of the images, every image with its own random parameters.

A view is drawn in two moves. `draw` takes uniform numbers for a whole global batch from one generator, so each
process can take its rows; `parameters` turns rows into crops, colours and blurs; `train_view` applies them. For given
parameters each operation equals torchvision's functional transform on float images.

Cropping, resizing and flipping are one product with two small matrices per image (a row holds the antialiased
triangle filter of one output pixel), and so is the Gaussian blur: on a GPU dense matrices of an image's size cost less
than per-image convolutions, and batch. On a CPU the matrices of a crop are sparse (`hpt.resample`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpt.config import AugmentConfig
from hpt.data.images import RawBatch, full_scale
from hpt.data.raw import Colours
from hpt.resample import blur, mirror, resample

ATTEMPTS = 10
"""The number of crops that are tried before the central one, as in torchvision's RandomResizedCrop."""
ASPECT = (3 / 4, 4 / 3)
"""The smallest and largest ratio of a crop's width to its height."""
COLUMNS = 2 * ATTEMPTS + 2 + 1 + 1 + 4 + 4 + 1 + 2 + 2
"""The uniform numbers of a view: crop areas and aspects, position, flip, jitter, its factors, their order, gray, blur,
vertical flip, turn."""
PUBLISHED_SIDE = 224
"""The side of the published view, in whose pixels the blur is given."""
RESIZE = 256 / 224
"""The test view is the centre of the image resized to this multiple of the view."""
LUMA = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in the luma of ITU-R 601-2."""
BRIGHTNESS, CONTRAST, SATURATION, HUE, NOTHING = range(5)
"""The operations of the colour jitter, by their column in `View.factors`."""
SMALLEST_CHROMA = 1e-12
"""The smallest chroma that is divided by: gray pixels have no hue, and a chroma of zero."""
BLUR_SIGMAS = 3
"""The Gaussian is cut off at this many standard deviations of the widest one, which loses 0.3 % of it."""


@dataclass(frozen=True)
class View:
    """The parameters of one view of each of n images, on the CPU; every field has n rows."""

    box: Tensor
    """[n, 4] the top, left, height and width of the crop, in whole pixels of the image."""
    flip: Tensor
    """[n] bool: whether the view is mirrored, left to right."""
    flop: Tensor
    """[n] bool: whether it is mirrored, top to bottom."""
    turn: Tensor
    """[n] bool: whether its rows become columns, after the mirrorings: with them, any turn by right angles."""
    jitter: Tensor
    """[n] bool: whether brightness, contrast, saturation and hue change."""
    factors: Tensor
    """[n, 4] the factors of brightness, contrast and saturation, and the turn of the hue in [-0.5, 0.5]."""
    order: Tensor
    """[n, 4] the order in which these four are applied."""
    grayscale: Tensor
    """[n] bool: whether the view is grayscale."""
    sigma: Tensor
    """[n] the standard deviation of the blur, in pixels of a view of 224 px, whatever the view's side; 0 for none."""


def crop_policy(min_scale: float, flip_p: float) -> AugmentConfig:
    """A random resized crop and a flip only: the training view of the evaluations."""
    return AugmentConfig(min_scale=min_scale, jitter_p=0, grayscale_p=0, blur_p=0, flip_p=flip_p)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """The uniform numbers of n views, [n, COLUMNS] in [0, 1)."""
    # The columns of version 0.1 first, so that those who ask for no turns see the views that they saw before.
    first = torch.rand(n, COLUMNS - 2, generator=generator, dtype=torch.float64)
    return torch.cat([first, torch.rand(n, 2, generator=generator, dtype=torch.float64)], dim=1)


def suited(config: AugmentConfig, colours: Colours) -> AugmentConfig:
    """The policy for images whose channels are these: without changes of colour where there are no colours, and without
    any of intensity where channels are neither colours nor a grey."""
    if colours == "rgb":
        return config
    without: dict[str, float] = {"grayscale_p": 0.0, "saturation": 0.0, "hue": 0.0}
    return config.model_copy(update=without | ({"jitter_p": 0.0} if colours == "none" else {}))


def parameters(uniform: Tensor, sizes: Tensor, config: AugmentConfig) -> View:
    """The view that `uniform` [n, COLUMNS] stands for, of images of `sizes` [n, 2] (height, width)."""
    area, aspect, place, flip, jitter, strength, order, gray, blur, flop, turns = uniform.split(
        [ATTEMPTS, ATTEMPTS, 2, 1, 1, 4, 4, 1, 2, 1, 1], dim=1
    )
    # 0 to 3 right angles, counterclockwise: a quarter turn is a mirroring and an exchange of rows and columns.
    quarters = torch.where(turns < config.rotate90, (4 * turns / max(config.rotate90, 1e-9)).floor(), 0.0)[:, 0].long()
    reach = torch.tensor([config.brightness, config.contrast, config.saturation, config.hue], dtype=uniform.dtype)
    spread = (2 * strength - 1) * reach
    factors = torch.cat([(1 + spread[:, :3]).clamp(min=0), spread[:, 3:]], dim=1)
    low, high = config.blur_sigma
    sigma = low + (high - low) * blur[:, 1]
    return View(
        box=_boxes(area, aspect, place, sizes, config.min_scale),
        flip=(flip[:, 0] < config.flip_p) ^ (quarters == 1) ^ (quarters == 2),
        flop=(flop[:, 0] < config.vertical_flip_p) ^ (quarters == 2) ^ (quarters == 3),
        turn=quarters % 2 == 1,
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
    out: Tensor | None = None,
) -> Tensor:
    """Augmented, normalised images, [n, C, size, size] fp32 on the device of `raw.pixels`; into `out`, where given.

    `sigma_max` is the largest sigma that `view` may hold, in its unit: the kernel's length, which is the same for all
    images, so that none depends on its neighbours.
    """
    device = raw.pixels.device
    # Rows are picked while the parameters are on the CPU: on a GPU each `nonzero` would wait for the device.
    with torch.autocast(device.type, enabled=False):  # pixels are not for bf16
        images = crop(raw, view.box, view.flip, size, view.flop)
        if len(rows := view.turn.nonzero()[:, 0]):
            rows = rows.to(device)
            images[rows] = images[rows].transpose(2, 3)
        for operation in view.order.unbind(1):
            adjust(images, torch.where(view.jitter, operation, NOTHING), view.factors)
        if len(rows := view.grayscale.nonzero()[:, 0]):
            rows = rows.to(device)
            images[rows] = luma(images[rows]).expand(-1, images.shape[1], -1, -1)
        if len(rows := (view.sigma > 0).nonzero()[:, 0]):
            here = size / PUBLISHED_SIDE  # at 32 px, the published sigmas would blur seven times as much of the image
            sigma, rows = (view.sigma[rows] * here).to(device), rows.to(device)
            images[rows] = gaussian_blur(images.index_select(0, rows), sigma, sigma_max * here)
        return _normalise(images, mean, std, out)


def centre_view(raw: RawBatch, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The centre of each image resized to 256/224 of `size`, normalised: [n, C, size, size] fp32."""
    sizes = raw.sizes.double()
    short = sizes.min(dim=1, keepdim=True).values
    new = (round(size * RESIZE) * sizes / short).floor()  # torchvision truncates the longer side
    scale = sizes / new
    start = ((new - size) / 2).round() * scale  # and rounds half a margin to even
    bounds = torch.stack([torch.zeros_like(sizes), sizes], dim=2)
    with torch.autocast(raw.pixels.device.type, enabled=False):
        images = _resample(raw, start, scale, bounds, size, flip=None)
        return _normalise(images, mean, std, None)


def crop(raw: RawBatch, box: Tensor, flip: Tensor | None, size: int, flop: Tensor | None = None) -> Tensor:
    """Each image's box resized to [size, size] with an antialiased bilinear filter, fp32 in [0, 1]."""
    box = box.double()
    start, extent = box[:, :2], box[:, 2:]
    bounds = torch.stack([start, start + extent], dim=2)
    return _resample(raw, start, extent / size, bounds, size, flip, flop)


def luma(images: Tensor) -> Tensor:
    """[n, 3, h, w] -> [n, 1, h, w]: ITU-R 601-2 luma, as torchvision and Pillow; of grey [n, 1, h, w] a copy."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)


def adjust(images: Tensor, operation: Tensor, factors: Tensor) -> None:
    """Each image's operation [n] (0 to 3, NOTHING: none), with its factor of `factors` [n, 4], in place.

    Brightness, contrast and saturation all blend the image with something darker or duller (black, its mean luma, its
    luma) and cut the outcome to [0, 1]: one pass serves images with any of the three.
    """
    device = images.device
    blends = operation < HUE
    if blends.any():
        factor = torch.where(blends, factors.gather(1, operation.clamp(max=3)[:, None])[:, 0], 1.0)
        flat = torch.stack([factor, operation == CONTRAST, operation == SATURATION]).to(device)
        factor, mean, dull = flat.view(3, -1, 1, 1, 1)
        gray = luma(images)
        average = gray.mean(dim=(1, 2, 3), keepdim=True) * mean
        base = gray.mul_(dull).add_(average)  # n x 1 x h x w; addcmul would take twice as long
        torch.lerp(base, images, factor, out=images).clamp_(0, 1)
    if len(rows := (operation == HUE).nonzero()[:, 0]):
        turn, rows = factors[rows, HUE].to(device), rows.to(device)
        images[rows] = hue(images.index_select(0, rows), turn)  # half the time of images[rows]


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue of HSV, turned by `turn` [n] of a full circle; grey has none.

    Which channel is the largest is a factor of 0 or 1 here: on a CPU `torch.where` costs thirty times as much as a sum.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value = torch.maximum(red, green).maximum(blue)
    chroma = value - torch.minimum(red, green).minimum(blue)
    no_red, no_green, no_blue = value - red, value - green, value - blue  # n x h x w, how much each channel lacks
    # Where the hue is on the hexagon, in sixths of a circle, times the chroma: at 0 red is full, at 2 green, at 4 blue.
    circle = (no_green - no_red).add_(chroma, alpha=4)
    circle = torch.lerp((no_red - no_blue).add_(chroma, alpha=2), circle, no_green.sign())
    circle = torch.lerp(no_blue - no_green, circle, no_red.sign_(), out=circle)
    circle.div_(chroma.clamp(min=SMALLEST_CHROMA)).add_(6 * turn[:, None, None]).div_(6)
    sixth = circle.sub_(circle.floor()).mul_(6)  # [0, 6)
    low = value.sub_(chroma)
    out, share = torch.empty_like(images), no_red
    for channel, (peak, sign) in enumerate(((3, 1), (2, -1), (4, -1))):
        torch.sub(sixth, peak, out=share).abs_()
        share = share.sub_(1) if sign > 0 else torch.sub(2, share, out=share)
        torch.addcmul(low, chroma, share.clamp_(0, 1), out=out[:, channel])
    return out


def gaussian_blur(images: Tensor, sigma: Tensor, sigma_max: float) -> Tensor:
    """Each image blurred with its own sigma [n] > 0, in pixels, mirrored at the edges; all kernels have one length.

    Samples of the Gaussian at whole pixels, as torchvision's: below a sigma of 0.1 they leave the image as it is.
    """
    size = images.shape[-1]
    radius = min(math.ceil(BLUR_SIGMAS * sigma_max), size - 1)
    half = torch.exp(-0.5 * (torch.arange(radius + 1, device=images.device) / sigma[:, None]) ** 2)
    half = half / (2 * half.sum(dim=1, keepdim=True) - 1)  # the middle counts once
    if images.device.type == "cpu":
        return blur(images, half)
    matrix = (half @ _mirrored(size, radius, images.device)).view(-1, size, size)
    return _both_sides(matrix, images, matrix)


@functools.lru_cache(maxsize=8)
def _mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """[radius + 1, size * size]: how often output i sees input j at distance d, mirrored at both edges."""
    at, by = torch.arange(size), torch.arange(-radius, radius + 1)
    seen = (at[:, None] + by).abs()
    seen = torch.where(seen >= size, 2 * (size - 1) - seen, seen)  # size x 2 radius + 1
    counts = torch.zeros(radius + 1, size, size)
    counts.index_put_((by.abs().expand_as(seen), at[:, None].expand_as(seen), seen), torch.ones(()), accumulate=True)
    return counts.view(radius + 1, -1).to(device)


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


def _resample(
    raw: RawBatch,
    start: Tensor,
    scale: Tensor,
    bounds: Tensor,
    size: int,
    flip: Tensor | None,
    flop: Tensor | None = None,
) -> Tensor:
    """Rows and columns of each image under triangle filters: [n, C, size, size] in [0, 1].

    Output pixel i lies at `start + (i + 0.5) * scale` of the image (start and scale [n, 2]: rows, columns), sees a
    triangle of half-width max(scale, 1), and nothing outside `bounds` [n, 2, 2].
    """
    return (resample if raw.pixels.device.type == "cpu" else dense)(raw, start, scale, bounds, size, flip, flop)


def dense(
    raw: RawBatch,
    start: Tensor,
    scale: Tensor,
    bounds: Tensor,
    size: int,
    flip: Tensor | None = None,
    flop: Tensor | None = None,
) -> Tensor:
    """What `hpt.resample` gives, by dense filters: two matrix products a part of the batch, which suit a GPU."""
    device = raw.pixels.device
    at = torch.arange(size, dtype=torch.float64) + 0.5
    centre = start[:, :, None] + at * scale[:, :, None]  # n x 2 x size
    mirror(centre, flip, flop)
    wide = scale.clamp(min=1)
    small = torch.cat([centre / wide[:, :, None], bounds, 1 / wide[:, :, None]], dim=2).float().to(device)
    made = []
    for some, pixels in raw.padded():
        mine = small[some]
        rows, columns = (
            _filters(mine[:, side, :size], mine[:, side, size:-1], mine[:, side, -1:], length)
            for side, length in enumerate(pixels.shape[2:])
        )
        made.append(_both_sides(rows.div_(full_scale(raw.dtype)), pixels, columns))
    if len(made) == 1:
        return made[0]
    return torch.cat(made)[torch.cat([part.rows for part in raw.parts]).argsort().to(device)]


def _filters(centre: Tensor, bounds: Tensor, slope: Tensor, length: int) -> Tensor:
    """[n, size, length] weights of the inputs for each output; `centre` [n, size] in units of the half-width."""
    at = torch.arange(length, device=centre.device, dtype=centre.dtype)
    inside = ((at >= bounds[:, :1]) & (at < bounds[:, 1:])).to(centre.dtype)  # n x length
    weight = ((at + 0.5) * slope)[:, None, :] - centre[:, :, None]
    weight = weight.abs_().neg_().add_(1).relu_().mul_(inside[:, None])
    return weight.div_(weight.sum(dim=2, keepdim=True))


def _both_sides(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows [n, a, h] @ images [n, c, h, w] @ columns^T [n, w, b] -> [n, c, a, b]."""
    n, channels, height, width = images.shape
    # Channels beside the columns, so that each image's rows are one product; 15 % less time than a product a channel.
    beside = images.transpose(1, 2).to(rows.dtype, memory_format=torch.contiguous_format)
    across = torch.bmm(rows, beside.reshape(n, height, channels * width))
    both = torch.bmm(across.view(n, -1, width), columns.transpose(1, 2))
    return both.view(n, rows.shape[1], channels, -1).transpose(1, 2).contiguous()


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], out: Tensor | None) -> Tensor:
    shift = torch.tensor(mean).view(1, -1, 1, 1).to(images.device)
    scale = torch.tensor(std).view(1, -1, 1, 1).to(images.device)
    images.sub_(shift).div_(scale)
    return images if out is None else out.copy_(images)
