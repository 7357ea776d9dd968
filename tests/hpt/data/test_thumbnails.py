"""Copies of images are known by their thumbnails, and images of one kind are not taken for copies."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hpt.config import DataConfig
from hpt.data import thumbnails
from hpt.data.dataset import load
from hpt.data.thumbnails import Thumbnails


def encoded(pixels: npt.NDArray[np.uint8], *, quality: int = 50, factor: float = 1.0) -> npt.NDArray[np.uint8]:
    """[3, H, W] as a JPEG file of another size has it."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    width, height = (round(length * factor) for length in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BILINEAR).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


@pytest.fixture(scope="module", params=["digits", "shapes@1000"])
def images(request: pytest.FixtureRequest) -> list[npt.NDArray[np.uint8]]:
    dataset = load(request.param, DataConfig(), side=64)
    return [dataset.images.batch([row]).pixels[0].numpy() for row in range(1000)]


def of(images: list[npt.NDArray[np.uint8]]) -> Thumbnails:
    return np.stack([thumbnails.thumbnail(pixels) for pixels in images])


@pytest.mark.parametrize("change", [{"quality": 50}, {"quality": 95, "factor": 0.5}, {"quality": 75, "factor": 2}])
def test_copies_encoded_again_or_resized_are_certain_and_different_images_are_not(
    images: list[npt.NDArray[np.uint8]], change: dict[str, float]
) -> None:
    testing, others = images[:300], images[300:]
    assert not len(thumbnails.find(of(testing), of(others)).certain)
    copies = [encoded(pixels, **change) for pixels in testing[:150]]  # type: ignore[arg-type]
    found = thumbnails.find(of(testing), of(others + copies))
    assert set(found.certain.tolist()) <= set(range(150))
    assert len(found.certain) >= 147
    assert (found.nearest[found.certain] == 700 + found.certain).all()
    assert (np.diff(found.likeness[found.certain]) <= 0).all()


def test_images_that_are_nearly_identical_among_themselves_are_likely_at_most() -> None:
    """Frames of a film: each as near to the others as to a copy of it."""
    scene = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    noise = np.random.default_rng(1).normal(0, 14, (500, 3, 64, 64))
    frames = [np.clip(scene + each, 0, 255).astype(np.uint8) for each in noise]
    found = thumbnails.find(of(frames[:250]), of(frames[250:]))
    assert not len(found.certain)
    assert len(found.likely)


def test_flat_images_match_nothing_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((3, 20, 30), 99, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 3, 20, 30), dtype=np.uint8)
    whole = thumbnails.find(of([flat, *noise[:20]]), of([flat, *noise]))
    assert whole.certain.tolist() and 0 not in whole.certain
    assert whole.likeness[0] == 0
    monkeypatch.setattr(thumbnails, "BLOCK", 7)
    parts = thumbnails.find(of([flat, *noise[:20]]), of([flat, *noise]))
    np.testing.assert_allclose(parts.likeness, whole.likeness, atol=1e-6)
    assert parts.nearest.tolist() == whole.nearest.tolist()


def test_none_among_none_is_nothing() -> None:
    nothing = np.zeros((0, thumbnails.SIDE**2), dtype=np.uint8)
    some = of([np.random.default_rng(0).integers(0, 256, (3, 9, 9), dtype=np.uint8)])
    assert not len(thumbnails.find(nothing, some).certain)
    assert not len(thumbnails.find(some, nothing).certain)
    assert len(thumbnails.find(some, some).certain) == 1


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (64, 64)), ("RGB", (333, 210)), ("L", (300, 200)), ("RGB", (10, 7))]
)
def test_a_thumbnail_of_pillows_picture_has_the_bits_of_one_of_the_pixels(mode: str, size: tuple[int, int]) -> None:
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        planes = pixels.transpose(2, 0, 1) if mode == "RGB" else pixels[None]
        by_pixels = thumbnails.thumbnail(np.ascontiguousarray(planes))
        assert (thumbnails.thumbnail(planes, Image.fromarray(pixels)) == by_pixels).all()
