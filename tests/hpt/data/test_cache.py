"""The decoded images: shared, rebuilt where damaged, never half there."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from small_images import noise_images

from hpt.config import DataConfig
from hpt.data import cache
from hpt.data.dataset import Dataset, load
from hpt.data.images import COUNTED, SMALLEST_STD, pixel_sums

IMAGES = 30
CONFIG = DataConfig()
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return noise_images(tmp_path / "noise", IMAGES)


class Counter:
    """A progress that counts how often it was called."""

    def __init__(self) -> None:
        self.last = (0, 0)

    def __call__(self, done: int, total: int, what: str) -> None:
        self.last = (done, total)


def pixels(dataset: Dataset) -> torch.Tensor:
    return dataset.images.batch(range(len(dataset.images))).pixels


def entries(own_cache: Path) -> list[Path]:
    return [path.parent for path in own_cache.glob("*/images.bin")]


def test_the_cache_holds_each_image_as_it_was_decoded(folder: Path) -> None:
    images = load(str(folder), CONFIG, side=64).images
    batch = images.batch([3, 0, 29])
    assert batch.pixels.dtype == torch.uint8
    assert batch.sizes.tolist() == [[16, 20]] * 3
    for row, index in enumerate((3, 0, 29)):
        expected = np.asarray(Image.open(folder / images.names[index])).transpose(2, 0, 1)
        assert np.array_equal(batch.pixels[row].numpy(), expected)


def test_images_of_several_sizes_lie_at_the_top_left_of_zeros(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "flat").mkdir()
    arrays = [random.integers(1, 256, (*size, 3), dtype=np.uint8) for size in ((5, 9), (8, 4), (6, 6))]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / "flat" / f"{number}.png")
    images = load(str(tmp_path / "flat"), CONFIG, side=64).images
    batch = images.batch(np.array([1, 0]))
    assert batch.pixels.shape == (2, 3, 8, 9)
    assert batch.sizes.tolist() == [[8, 4], [5, 9]]
    assert np.array_equal(batch.pixels[0, :, :8, :4], arrays[1].transpose(2, 0, 1))
    assert batch.pixels[0, :, :, 4:].sum() == 0
    assert batch.pixels[1, :, 5:].sum() == 0
    assert images.batch([2]).pixels.shape == (1, 3, 6, 6)


def test_a_subset_keeps_order_names_and_normalisation(folder: Path) -> None:
    images = load(str(folder), CONFIG, side=64).images
    some = images.subset([5, 2, 9])
    assert len(some) == 3
    assert some.names == tuple(images.names[i] for i in (5, 2, 9))
    assert torch.equal(some.subset([2]).batch([0]).pixels, images.batch([9]).pixels)
    assert (some.mean, some.std) == (images.mean, images.std)


def test_a_batch_is_a_copy_that_may_be_written(folder: Path) -> None:
    images = load(str(folder), CONFIG, side=64).images
    images.batch([0]).pixels.zero_()
    assert images.batch([0]).pixels.any()


def test_pixels_larger_than_the_machines_memory_can_be_mapped(tmp_path: Path) -> None:
    size = psutil.virtual_memory().total + psutil.swap_memory().total + (1 << 30)
    path = tmp_path / "images.bin"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 1)
        file.write(b"\x07")
    with path.open("rb") as file:
        pixels = cache.mapped(file, np.dtype(np.uint8))
    assert (len(pixels), int(pixels[-1]), int(pixels[size // 2])) == (size, 7, 0)


def test_the_second_load_does_not_read_the_images(folder: Path) -> None:
    cold, warm = Counter(), Counter()
    first = load(str(folder), CONFIG, side=64, progress=cold)
    for path in folder.glob("*/*.png"):
        facts = path.stat()
        path.write_bytes(bytes(facts.st_size))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    second = load(str(folder), CONFIG, side=64, progress=warm)
    assert (cold.last, warm.last) == ((IMAGES, IMAGES), (0, 0))
    assert torch.equal(pixels(first), pixels(second))
    assert first.fingerprint == second.fingerprint


def test_a_changed_image_is_decoded_again(folder: Path) -> None:
    before = load(str(folder), CONFIG, side=64)
    Image.new("RGB", (20, 16), "red").save(folder / before.images.names[0])
    after = load(str(folder), CONFIG, side=64)
    assert after.images.batch([0]).pixels[0, 0].unique().tolist() == [255]
    assert before.fingerprint != after.fingerprint


def test_thumbnails_are_kept_with_the_pixels_and_computed_where_they_are_not(folder: Path, own_cache: Path) -> None:
    kept = load(str(folder), CONFIG, side=64).images.subset([3, 0]).thumbnails
    assert kept.shape == (2, 256)
    (entry,) = entries(own_cache)
    for damage in (b"damaged", None):  # and of an entry that version 0.1 made
        (entry / "thumbnails.npy").unlink() if damage is None else (entry / "thumbnails.npy").write_bytes(damage)
        assert np.array_equal(load(str(folder), CONFIG, side=64).images.subset([3, 0]).thumbnails, kept)


def test_another_side_is_another_entry(folder: Path, own_cache: Path) -> None:
    assert pixels(load(str(folder), CONFIG, side=64)).shape[2:] == (16, 20)
    assert pixels(load(str(folder), CONFIG, side=8)).shape[2:] == (8, 10)
    assert len(entries(own_cache)) == 2


def test_the_same_images_elsewhere_share_an_entry_and_a_fingerprint(
    folder: Path, own_cache: Path, tmp_path: Path
) -> None:
    here = load(str(folder), CONFIG, side=64)
    shutil.copytree(folder, tmp_path / "copy")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, Path("wrapped") / path.relative_to(folder))
    for other in ("copy", "packed.zip"):
        there = load(str(tmp_path / other), CONFIG, side=64)
        assert there.fingerprint == here.fingerprint
        assert there.split_fingerprint == here.split_fingerprint
    assert len(entries(own_cache)) == 1


def test_a_zip_that_moved_is_still_warm(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    load(str(path), CONFIG, side=64)
    warm = Counter()
    load(str(path.rename(tmp_path / "moved.zip")), CONFIG, side=64, progress=warm)
    assert warm.last == (0, 0)


@pytest.mark.parametrize("name", ["images.bin", "index.npz", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_entry_is_built_again(
    folder: Path, own_cache: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    before = pixels(load(str(folder), CONFIG, side=64))
    (entry,) = entries(own_cache)
    file = entry / name
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"\x00garbage")
    built = Counter()
    assert torch.equal(pixels(load(str(folder), CONFIG, side=64, progress=built)), before)
    assert built.last == (IMAGES, IMAGES)
    assert damage == "gone" or "damaged" in caplog.text
    assert list(own_cache.glob(".building*")) == []


def test_a_damaged_stamp_is_written_again(folder: Path, own_cache: Path) -> None:
    before = pixels(load(str(folder), CONFIG, side=64))
    (stamp,) = own_cache.glob("*.json")
    stamp.write_text('{"entry"')
    assert torch.equal(pixels(load(str(folder), CONFIG, side=64)), before)
    warm = Counter()
    load(str(folder), CONFIG, side=64, progress=warm)
    assert warm.last == (0, 0)


LOAD = """
import sys
from hpt.config import DataConfig
from hpt.data.dataset import load
{before}
built = []

def progress(done, total, what):
    if what != "reading images":
        return
    built.append(done)
    {during}

dataset = load(sys.argv[1], DataConfig(), side=64, progress=progress)
print(bool(built), dataset.fingerprint)
"""


def loading(folder: Path, before: str = "", during: str = "None") -> subprocess.Popen[str]:
    """A process that loads the folder and prints whether it decoded it, and the fingerprint."""
    script = LOAD.format(before=before, during=during)
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_that_load_at_once_decode_once(folder: Path) -> None:
    slow = "__import__('time').sleep(0.05)"
    processes = [loading(folder, during=slow) for _ in range(2)]
    output = [process.communicate(timeout=60)[0].split() for process in processes]
    fingerprint = load(str(folder), CONFIG, side=64).fingerprint
    assert sorted(output) == [["False", fingerprint], ["True", fingerprint]]


@pytest.mark.slow
def test_a_build_that_was_killed_leaves_nothing_that_a_later_load_trusts(folder: Path, own_cache: Path) -> None:
    process = loading(folder, before="import os, signal", during="done > 20 and os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert len(list(own_cache.glob(".building*"))) == 1
    assert list(own_cache.glob("*.json")) == []
    built = Counter()
    dataset = load(str(folder), CONFIG, side=64, progress=built)
    assert built.last == (IMAGES, IMAGES)
    assert len(dataset.images) == IMAGES
    assert list(own_cache.glob(".building*")) == []


def test_a_disk_that_is_full_raises_the_system_error_and_leaves_nothing(folder: Path, own_cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            load(str(folder), CONFIG, side=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(own_cache) == []
    assert list(own_cache.glob(".building*")) == []
    assert len(load(str(folder), CONFIG, side=64).images) == IMAGES


def test_an_interrupted_build_leaves_nothing(folder: Path, own_cache: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(str(folder), CONFIG, side=64, progress=interrupt)
    assert entries(own_cache) == []
    assert list(own_cache.glob(".building*")) == []


def test_mean_and_std_are_those_of_train_and_val_and_never_of_test(tmp_path: Path) -> None:
    for split, grey in (("train", 50), ("val", 150), ("test", 255)):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        Image.new("RGB", (4, 4), (grey, grey, 7)).save(tmp_path / "set" / split / "a" / "1.png")
    images = load(str(tmp_path / "set"), CONFIG, side=64).images
    assert images.mean == pytest.approx((100 / 255, 100 / 255, 7 / 255))
    assert images.std == pytest.approx((50 / 255, 50 / 255, SMALLEST_STD))


def test_mean_and_std_agree_with_numpy_over_all_pixels(folder: Path) -> None:
    dataset = load(str(folder), CONFIG, side=64)
    images = dataset.pretraining_images()
    values = images.batch(range(len(images))).pixels.numpy().astype(np.float64) / 255
    assert images.mean == pytest.approx(tuple(values.mean(axis=(0, 2, 3))))
    assert images.std == pytest.approx(tuple(values.std(axis=(0, 2, 3))))


@pytest.mark.parametrize("size", [(20, 30), (COUNTED // 100, 100), (331, 401)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sums_are_exact_whether_pillow_counts_or_numpy_sums(mode: str, size: tuple[int, int]) -> None:
    channels = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (channels, *size), dtype=np.uint8)
    picture = Image.merge(mode, [Image.fromarray(plane) for plane in pixels])
    exact = [[int(plane.sum(dtype=np.int64)) for plane in values] for values in (pixels, pixels.astype(np.int64) ** 2)]
    assert pixel_sums(pixels, picture).tolist() == pixel_sums(pixels).tolist() == exact
    assert pixel_sums(pixels, picture).dtype == np.uint64


def test_sums_of_pictures_kept_with_16_bits_are_of_the_16_bits() -> None:
    pixels = np.full((1, 200, 200), 3 * 257, dtype=np.uint16)
    assert pixel_sums(pixels, Image.new("L", (200, 200), 3)).tolist() == [[771 * 40_000], [771**2 * 40_000]]


def test_sums_of_large_white_images_are_exact(tmp_path: Path) -> None:
    for colour in ("black", "white"):
        Image.new("RGB", (401, 331), colour).save(tmp_path / f"{colour}.png")  # more pixels than are summed at once
    mean, std = load(str(tmp_path), DataConfig(), side=331).images.statistics()
    assert mean == std == (0.5, 0.5, 0.5)
