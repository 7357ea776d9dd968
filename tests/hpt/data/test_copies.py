"""Copies within a dataset, counted by what the cache keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from hpt.config import DataConfig
from hpt.data.copies import copies
from hpt.data.dataset import load


def smooth(path: Path, seed: int) -> Path:
    """A picture that survives another encoding."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC).save(path)
    return path


def test_equal_files_and_pictures_encoded_again_are_counted_within_splits_and_across(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for number in range(24):
            smooth(root / split / "ab"[number % 2] / f"{number}.png", first + number)
    assert (found := copies(load(str(root), DataConfig(), side=32))).images == 72
    assert (found.equal, found.near, found.across) == (0, 0, 0)
    shutil.copy(root / "train/a/0.png", root / "train/a/again.png")
    shutil.copy(root / "train/a/2.png", root / "test/a/leaked.png")
    Image.open(root / "train/b/1.png").resize((40, 40)).save(root / "val/b/encoded.jpg", quality=90)
    found = copies(load(str(root), DataConfig(), side=32))
    assert (found.images, found.equal, found.near, found.across) == (75, 2, 1, 2)


def test_images_without_labels_have_copies_too(tmp_path: Path) -> None:
    for number in range(12):
        smooth(tmp_path / "flat" / f"{number}.png", number)
    shutil.copy(tmp_path / "flat/3.png", tmp_path / "flat/copy.png")
    found = copies(load(str(tmp_path / "flat"), DataConfig(), side=32))
    assert (found.images, found.equal, found.near, found.across) == (13, 1, 0, 0)
