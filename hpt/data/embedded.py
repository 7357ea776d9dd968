"""Two datasets that need no network: `digits` and `shapes`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hpt.data.decode import ppm
from hpt.data.listing import Listing, Read

DIGIT_SIDE = 32
"""scikit-learn's digits have 8 x 8 pixels; enlarged four times, bicubically so that crops show strokes, not
squares."""
SHAPES = 3000
"""The number of images of `shapes` where none is asked for."""
SHAPE_SIDE = 64
"""The side of an image of `shapes` in pixels."""
TOY = "this shows the tool, it says nothing about your images"
"""What is said wherever a base was pretrained on `shapes`."""
SHAPES_SEED = 2103
SUPERSAMPLING = 4
"""The factor by which a shape's outline is drawn larger and then reduced, which smooths its edge."""

Points = npt.NDArray[np.float64]
"""[n, 2] corners of an outline, in units of the shape's radius."""


@dataclass(frozen=True)
class Digits:
    """1,797 scanned handwritten digits (Alpaydin and Kaynak, 1998), as scikit-learn ships them."""

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield f"digits 1 {DIGIT_SIDE}"

    def open(self) -> AbstractContextManager[Read]:
        scans = _digit_table()[:, :-1].reshape(-1, 8, 8)

        def read(name: str) -> bytes:
            grey = np.rint(scans[_number(name)] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(grey).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
            return ppm(np.asarray(image.convert("RGB")))

        return nullcontext(read)


@dataclass(frozen=True)
class Shapes:
    """Images drawn by their number: one outline, of any colour, place, size and angle, on a textured
    gradient."""

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield f"shapes 1 {SHAPE_SIDE}"

    def open(self) -> AbstractContextManager[Read]:
        return nullcontext(lambda name: ppm(draw_shape(_number(name))))


def digits() -> Listing:
    """The ten digits, 1,797 images of 32 x 32 pixels."""
    digit = _digit_table()[:, -1].astype(int)
    return Listing.single_label(Digits(), {f"{i:04d}.ppm": ("train", str(d)) for i, d in enumerate(digit)})


def is_toy(dataset: str) -> bool:
    """Whether a dataset of this name is `shapes`, of any number of images."""
    return dataset.partition("@")[0] == "shapes"


def shapes(count: int = SHAPES) -> Listing:
    """Eight outlines in turn, `count` images of 64 x 64 pixels; the first n are the same whatever the
    count."""
    return Listing.single_label(
        Shapes(), {f"{i:07d}.ppm": ("train", OUTLINE_NAMES[i % len(OUTLINES)]) for i in range(count)}
    )


@functools.cache
def _digit_table() -> npt.NDArray[np.float64]:
    """[1797, 65]: the 64 pixels (0 to 16) and the digit of each scan, as `sklearn.datasets.load_digits` has them.

    The file is read where it lies: to import scikit-learn for it would cost each start a second and a half.
    """
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    return np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")


def draw_shape(number: int) -> npt.NDArray[np.uint8]:
    """The `number`-th image of `shapes`: RGB [64, 64, 3]."""
    random = np.random.default_rng([SHAPES_SEED, number])
    background = _background(random)
    cover = _cover(random, OUTLINES[OUTLINE_NAMES[number % len(OUTLINES)]])[..., None]
    colour = random.uniform(0, 255, 3)
    while abs(colour.mean() - background.mean()) < 50:
        colour = random.uniform(0, 255, 3)
    noise = random.normal(0, 6, background.shape)
    return np.clip(background * (1 - cover) + colour * cover + noise, 0, 255).astype(np.uint8)


def _background(random: np.random.Generator) -> npt.NDArray[np.float64]:
    start, end = random.uniform(0, 255, (2, 1, 1, 3))
    across = np.linspace(-0.5, 0.5, SHAPE_SIDE)
    angle = random.uniform(0, 2 * math.pi)
    along = (0.5 + math.cos(angle) * across + math.sin(angle) * across[:, None])[..., None]
    coarse = random.uniform(-1, 1, (8, 8)).astype(np.float32)
    texture = np.asarray(Image.fromarray(coarse).resize((SHAPE_SIDE, SHAPE_SIDE), Image.Resampling.BICUBIC))
    gradient: npt.NDArray[np.float64] = start * (1 - along) + end * along
    return gradient + random.uniform(5, 40) * texture[..., None]


def _cover(random: np.random.Generator, outlines: tuple[Points, ...]) -> npt.NDArray[np.float64]:
    """[64, 64] share of each pixel inside the shape: the first outline, less the others."""
    radius = random.uniform(0.18, 0.4) * SHAPE_SIDE
    centre = random.uniform(0.75 * radius, SHAPE_SIDE - 0.75 * radius, 2)
    angle = random.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    mask = Image.new("L", (SUPERSAMPLING * SHAPE_SIDE,) * 2)
    pen = ImageDraw.Draw(mask)
    for fill, outline in zip((255, *(0 for _ in outlines[1:])), outlines, strict=True):
        corners = SUPERSAMPLING * (centre + radius * outline @ turn)
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=fill)
    return np.asarray(mask.reduce(SUPERSAMPLING)) / 255


def _circle(radius: float = 1, x: float = 0, turns: float = 1) -> Points:
    angles = np.linspace(0, 2 * math.pi * turns, 48)
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _corners(count: int, *radii: float) -> Points:
    angles = np.arange(count) * (2 * math.pi / count)
    along = np.resize(radii, count)
    return np.stack([along * np.cos(angles), along * np.sin(angles)], axis=1)


_ARM = 0.3
_CROSS = np.array(
    [
        (x * sx, y * sy)
        for sx, sy, corners in (
            (1, 1, [(1, _ARM), (_ARM, _ARM), (_ARM, 1)]),
            (-1, 1, [(_ARM, 1), (_ARM, _ARM), (1, _ARM)]),
            (-1, -1, [(1, _ARM), (_ARM, _ARM), (_ARM, 1)]),
            (1, -1, [(_ARM, 1), (_ARM, _ARM), (1, _ARM)]),
        )
        for x, y in corners
    ]
)

OUTLINES: dict[str, tuple[Points, ...]] = {
    "circle": (_circle(),),
    "crescent": (_circle(), _circle(0.85, x=0.5)),
    "cross": (_CROSS,),
    "half-disc": (_circle(turns=0.5),),
    "ring": (_circle(), _circle(0.6)),
    "square": (_corners(4, 1.0),),
    "star": (_corners(10, 1.0, 0.42),),
    "triangle": (_corners(3, 1.0),),
}
OUTLINE_NAMES = tuple(OUTLINES)


def _number(name: str) -> int:
    return int(name.removesuffix(".ppm"))
