"""Folders of small images, for tests of what reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def grey_images(root: Path, *names: str) -> Path:
    """Small images, each of its own grey."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), number % 256).save(path)
    return root


def noise_images(root: Path, count: int, seed: int = 0) -> Path:
    """Two classes of noise, 20 x 16 pixels."""
    random = np.random.default_rng(seed)
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
    return root


def noise_png(number: int) -> bytes:
    """A file of noise, 9 x 8 pixels, each number another."""
    random = np.random.default_rng(number)
    data = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(data, "png")
    return data.getvalue()
