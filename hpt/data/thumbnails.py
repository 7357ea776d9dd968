"""Images recognised by small grey thumbnails: a copy that was encoded again, resized or brightened is found, one that
was mirrored or cropped is not.

A thumbnail of 16 x 16 pixels takes 256 bytes: 256 MB for a million images, which may stay on the disk. Comparing 5,000
images with a million takes about a minute on two busy cores and 64 MiB at a time; it grows with both numbers.

How alike two images are is the correlation of their thumbnails. What it says depends on the kind of image: of aerial
images no two different ones come to more than 0.88, of scanned digits and x-rays some come to 0.99. So a match is
certain where it leaves a third or less of the difference that the images have among themselves, and their edges match.

As `benchmarks/near_copies.py` measured, of 5,323 test images of seven sets (digits, aerial, flowers, x-rays, sketches,
traffic signs, Tiny ImageNet; 32 and 64 px) none was certain to be among images of another set, and of those of its own
set it was two, which truly are the same flowers. Copies of JPEG quality 50, or of half the size, were certain in 99 to
100 % of the cases, both together in 94 to 100 % (of sketches 49, and 94 likely). Traffic signs, frames of films of the
same signs, are too alike for that: 48 and 91 %, and none where both come together or where Lanczos reduced them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hpt.callbacks import Progress
from hpt.data.pixel_format import eight_bits

SIDE = 16
"""The side of a thumbnail in pixels."""
FLAT = 2.0
"""The standard deviation of a thumbnail's pixels (0 to 255) below which it shows nothing that could be compared."""
BLOCK = 4096
"""The number of images that are compared at once with as many others, which takes 64 MiB."""
REDUCING_GAP = 3.0
"""Large images are first averaged over whole pixels down to this many times the side."""

LIKELY = 0.98
"""The correlation below which a match is not worth a word."""
CERTAIN = 0.96
"""The correlation below which no match is certain, however little the images resemble each other."""
CERTAIN_OF_FEW, FEW = 0.996, 200
"""And where there are fewer images than `FEW` to tell what different images have in common."""
EDGES = 0.85
"""The correlation of a certain copy's edges: two smooth images, such as a coast and a keyboard, come to 0.97 by chance,
and their edges to 0.7."""
THIRD = 1 / 3
"""The share of the difference among different images that a certain copy has at most."""
SAME = 0.9999
"""The correlation above which images are the same picture, and no example of different ones."""
DIFFERENT = 0.99
"""The quantile, over the images, of the correlation with the nearest other one, which stands for different images."""

Thumbnails = npt.NDArray[np.uint8]


def thumbnail(pixels: npt.NDArray[Any], picture: Image.Image | None = None) -> Thumbnails:
    """[256] the grey thumbnail of an image's 8- or 16-bit pixels [C, H, W]: the luma of three channels, the mean of
    others.

    `picture`: the same pixels where Pillow has them in mode RGB or L, which gives the same bits in half to three
    quarters of the time.
    """
    if picture is None:
        planes = [Image.fromarray(plane) for plane in eight_bits(pixels)]
        if len(planes) not in (1, 3):
            means = np.mean([np.asarray(_reduced(plane)) for plane in planes], axis=0)
            grey: Thumbnails = np.rint(means).astype(np.uint8).reshape(-1)
            return grey
        picture = planes[0] if len(planes) == 1 else Image.merge("RGB", planes)
    return np.frombuffer(_reduced(picture.convert("L")).tobytes(), dtype=np.uint8)


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """[n, d] of mean 0 and length 1, so that a product is a correlation; zeros where an image is flat."""
    centred = pixels - pixels.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    flat = length < FLAT * pixels.shape[1] ** 0.5
    return torch.where(flat, 0.0, centred / length.clamp_min(1e-6))


@dataclass(frozen=True)
class Matches:
    """The images that seem to be among others."""

    certain: npt.NDArray[np.int64]
    """The rows of the images that are copies of others, the most alike first."""
    likely: npt.NDArray[np.int64]
    """The rows of those that may be, the most alike first: images of one kind can be as alike."""
    likeness: npt.NDArray[np.float32]
    """[N] the correlation of each image with the nearest of the others; 0 for flat ones."""
    nearest: npt.NDArray[np.int64]
    """[N] the row of the nearest of the others."""


def find(images: Thumbnails, others: Thumbnails, progress: Progress | None = None) -> Matches:
    """The images [N, 256] that are among others [M, 256], which may be mapped from a file.

    What different images have in common is taken from `images` themselves (`BLOCK` of them where there are more).
    """
    return _judged(images, others, *_nearest(images, others, progress))


def repeated(images: Thumbnails, progress: Progress | None = None) -> Matches:
    """The images that seem to be among those before them: copies within a set, of which the first is none."""
    return _judged(images, images, *_nearest(images, images, progress, before=True))


def _judged(
    images: Thumbnails, others: Thumbnails, likeness: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64]
) -> Matches:
    sample = images[:: -(-len(images) // BLOCK) or 1]
    among, _ = _nearest(images, sample, None, apart=True)
    different = float(np.quantile(among, DIFFERENT)) if len(images) > 1 else 0.0
    floor = CERTAIN if len(images) >= FEW else CERTAIN_OF_FEW
    need = np.maximum(floor, 1 - THIRD * (1 - np.maximum(among, different)))
    certain = likeness >= need
    rows = np.flatnonzero(certain)
    certain[rows] = _edges_alike(images[rows], others[nearest[rows]]) >= EDGES
    likely = ~certain & (likeness >= max(LIKELY, different))
    order = np.argsort(-likeness, kind="stable")
    return Matches(order[certain[order]], order[likely[order]], likeness, nearest)


def _nearest(
    images: Thumbnails,
    others: Thumbnails,
    progress: Progress | None,
    *,
    apart: bool = False,
    before: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The correlation of each image with the nearest of the others, and its row; `apart`: the same picture does
    not count, an image itself in the first place; `before`: only others of a smaller number count."""
    likeness, nearest = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.int64)
    starts = range(0, len(others), BLOCK)
    for done, left in enumerate(starts, start=1):
        some = normalised(_floats(others[left : left + BLOCK]))
        for top, rows in _blocks(images):
            alike = rows @ some.T
            if apart:
                alike.masked_fill_(alike > SAME, 0.0)
            if before:
                alike.tril_(diagonal=top - left - 1)
            best = alike.amax(dim=1)  # `max`, which says where, takes several times as long
            better = (best > likeness[top : top + BLOCK]).nonzero()[:, 0]
            likeness[top + better] = best[better]
            nearest[top + better] = alike[better].argmax(dim=1) + left
        if progress is not None:
            progress(done, len(starts), "comparing images")
    return likeness.numpy(), nearest.numpy()


def _edges_alike(ones: Thumbnails, others: Thumbnails) -> npt.NDArray[np.float32]:
    """The correlation of the differences between neighbouring pixels, pair by pair."""
    return (_edges(ones) * _edges(others)).sum(dim=1).numpy()


def _edges(rows: Thumbnails) -> torch.Tensor:
    pixels = _floats(rows).view(-1, SIDE, SIDE)
    differences = (pixels.diff(dim=1).flatten(1), pixels.diff(dim=2).flatten(1))
    return torch.nn.functional.normalize(torch.cat(differences, dim=1), dim=1)


def _blocks(images: Thumbnails) -> Iterator[tuple[int, torch.Tensor]]:
    for top in range(0, len(images), BLOCK):
        yield top, normalised(_floats(images[top : top + BLOCK]))


def _floats(rows: Thumbnails) -> torch.Tensor:
    return torch.from_numpy(np.array(rows, dtype=np.float32))
