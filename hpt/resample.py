"""Crops resized with an antialiased triangle filter, and blurs, on a CPU: two sparse products each.

An output pixel of a crop of w pixels resized to s sees some 2 w / s of them, so nearly all of a dense filter matrix
[s, w] is zero. Here each output row is a weighted sum of a few input rows (`embedding_bag`: torch's sum of some rows of
a table), and after a transposition each output column likewise. Only the pixels that a crop sees are read, straight
from where the images lie, so it does not matter how large or how varied the images of a batch are.

Sums run over an image's own taps in order, and what pads them are zeros at either end: an image's bits do not depend on
its neighbours. On a GPU, where batched matrix products cost less than many small copies, `hpt.augment` has the dense
filters of the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hpt.data.images import RawBatch, full_scale

TABLE = 1 << 21
"""The floats of input that are resampled together: 8 MiB, of a core's caches; half and twice of it cost 2 to 10 % more
time, a table of all images of a batch 20 %."""
STEP = 16
"""Rows of a table have a multiple of this many pixels: the kernel of a sum is compiled once for every length."""
SMALLEST_WEIGHT = 1e-6
"""Weights below are zero: at the very end of a triangle fp32 would else leave one that some batches look at."""


def resample(
    raw: RawBatch,
    start: Tensor,
    scale: Tensor,
    bounds: Tensor,
    size: int,
    flip: Tensor | None = None,
    flop: Tensor | None = None,
) -> Tensor:
    """Rows and columns of each image under triangle filters: fp32 [n, C, size, size] in [0, 1].

    Args:
        start: [n, 2] the top and left end of what the view shows, in pixels of the image, float64.
        scale: [n, 2] the pixels of the image that are one of the view, in rows and columns; below 1 it is enlarged.
        bounds: [n, 2, 2] the first row and column that a filter may see, and the one after the last.
        flip: [n] bool: which views are mirrored, left to right.
        flop: [n] bool: which views are mirrored, top to bottom.
    """
    n, wide = len(scale), scale.clamp(min=1)
    end = start + size * scale
    low = torch.maximum((start - wide).floor(), bounds[:, :, 0]).long()  # n x 2, the box of what a view sees
    high = torch.minimum((end + wide).ceil(), bounds[:, :, 1]).long()
    at = torch.arange(size, dtype=torch.float64) + 0.5
    centre = (start - low)[:, :, None] + at * scale[:, :, None]  # n x 2 x size, in pixels of the box
    mirror(centre, flip, flop)
    extent = high - low
    top, left = low.T.tolist()
    views = torch.empty(n, raw.channels, size, size)
    for rows in _alike(extent):
        heights, widths = (some.tolist() for some in extent[rows].T)
        width = -(-max(widths) // STEP) * STEP
        table = torch.empty(sum(heights), raw.channels, width)  # the columns of padding are never looked at
        begin, first = table.numpy(), 0
        firsts = []
        for row, height, wide_as in zip(rows.tolist(), heights, widths, strict=True):
            t, b = top[row], left[row]
            box = raw.array(row)[:, t : t + height, b : b + wide_as]
            begin[first : first + height, :, :wide_as] = box.transpose(1, 0, 2)  # NumPy costs less a call than torch
            firsts.append(first)
            first += height
        index, weight = _taps(centre[rows], wide[rows], extent[rows])
        index += torch.tensor([firsts, range(0, width * len(rows), width)], dtype=torch.int32).T[:, :, None, None]
        across = _sums(table.view(first, -1), index[:, 0], weight[:, 0] / full_scale(raw.dtype))
        turned = across.view(len(rows), -1, width).transpose(1, 2).contiguous()  # m x width x size C
        both = _sums(turned.view(len(rows) * width, -1), index[:, 1], weight[:, 1])
        views[rows] = both.view(len(rows), size, size, -1).permute(0, 3, 2, 1)
    return views


def mirror(centre: Tensor, flip: Tensor | None, flop: Tensor | None) -> None:
    """Turn the centres [n, 2, size] of views that are mirrored around, in place."""
    for side, mirrored in enumerate((flop, flip)):
        if mirrored is not None:
            centre[:, side] = torch.where(mirrored[:, None], centre[:, side].flip(1), centre[:, side])


def blur(images: Tensor, half: Tensor) -> Tensor:
    """Images [m, C, s, s] with the symmetric kernels `half` [m, r + 1] (from the middle out) in both directions,
    mirrored at the edges."""
    m, channels, size, _ = images.shape
    radius = half.shape[1] - 1
    away = torch.arange(-radius, radius + 1)
    seen = (torch.arange(size)[:, None] + away).abs()
    seen = torch.where(seen >= size, 2 * (size - 1) - seen, seen).int()  # size x 2 r + 1
    weight = half[:, None, away.abs()].expand(m, size, -1)
    rows, columns = (torch.arange(0, count * size, size, dtype=torch.int32) for count in (m * channels, m))
    down = weight.repeat_interleave(channels, 0)
    across = _sums(images.reshape(-1, size), rows[:, None, None] + seen, down)
    turned = across.view(m, channels * size, size).transpose(1, 2).contiguous()
    both = _sums(turned.view(m * size, -1), columns[:, None, None] + seen, weight)
    return both.view(m, size, channels, size).permute(0, 2, 3, 1)


def _alike(extent: Tensor) -> Iterator[Tensor]:
    """The rows of a batch in groups of similar widths, of about `TABLE` floats of one channel each."""
    order = extent[:, 1].argsort(stable=True)
    return iter(order.split(_counts(extent[order].prod(dim=1))))


def _counts(areas: Tensor) -> list[int]:
    group = areas.cumsum(0).sub(areas).div(TABLE // 3, rounding_mode="floor")
    return group.unique_consecutive(return_counts=True)[1].tolist()  # type: ignore[no-any-return]


def _taps(centre: Tensor, wide: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs that each output sees, int32 [m, 2, size, K], and their weights, which sum to 1.

    `centre` [m, 2, size] lies in a box of `extent` [m, 2]; a triangle has the half-width `wide` [m, 2].
    """
    count = int((2 * wide).ceil().max()) + 1
    last = extent[:, :, None]
    first = (centre - wide[:, :, None] + 0.5).floor().long().minimum(last - count).clamp_(min=0)
    near = centre.floor()
    tap = torch.arange(count, dtype=torch.float32)
    # From the next whole pixel, in small numbers that fp32 holds: a weight is a function of output and input alone.
    weight = (first - near).float()[:, :, :, None] + tap
    weight.sub_((centre - near - 0.5).float()[:, :, :, None]).mul_((1 / wide).float()[:, :, None, None])
    torch.threshold_(torch.sub(1, weight.abs_(), out=weight), SMALLEST_WEIGHT, 0.0)
    index = first.int()[:, :, :, None] + tap.int()
    if (extent < count).any():
        last = last.int()[:, :, :, None]
        weight.mul_(index < last)
        index = index.minimum(last - 1)
    total = weight[..., 0].clone()
    for further in weight.unbind(3)[1:]:  # in order, so that zeros at either end leave its bits
        total += further
    return index, weight.div_(total[..., None])


def _sums(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of rows of a table [rows, length] for each output of `index` [m, size, K]: [m size, length]."""
    count = index.shape[-1]
    begin = torch.arange(0, index.numel(), count, dtype=index.dtype)
    return torch.embedding_bag(table, index.reshape(-1), begin, per_sample_weights=weight.reshape(-1))[0]
