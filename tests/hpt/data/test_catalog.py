"""Datasets by name: the embedded ones and Flowers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from hpt.config import DataConfig
from hpt.data.catalog import CATALOG, METRICS, find
from hpt.data.dataset import load
from hpt.data.embedded import OUTLINES, draw_shape
from hpt.errors import DataError

CONFIG = DataConfig()


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Nine images in torchvision's layout of Flowers102: three classes, three splits."""
    root = tmp_path / "data" / "flowers-102"
    (root / "jpg").mkdir(parents=True)
    for number in range(1, 10):
        Image.new("RGB", (30, 20), (25 * number, 0, 0)).save(root / "jpg" / f"image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 102] * 3], dtype=np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 5]], "valid": [[9, 2, 3]], "tstid": [[4, 6, 7, 8]]})
    return root


def test_every_row_is_complete() -> None:
    for name, row in CATALOG.items():
        assert row.name == name
        assert row.title and row.domain and row.licence and row.page and row.task in METRICS
        assert (row.mean is None) == (row.std is None)
        assert row.download is None or "{root}" in row.how_to_get


def test_digits_are_scikit_learns_scans_enlarged() -> None:
    dataset = load("digits", CONFIG, side=64)
    assert len(dataset.images) == 1797
    assert dataset.classes == tuple("0123456789")
    assert np.array_equal(dataset.labels, load_digits().target)
    assert [len(dataset.splits[split]) for split in ("train", "val", "test")] == [1259, 179, 359]
    pixels = dataset.images.batch([0, 1000]).pixels.float()
    assert pixels.shape == (2, 3, 32, 32)
    means = load_digits().images[[0, 1000]].mean(axis=(1, 2)) * 255 / 16
    assert pixels.mean(dim=(1, 2, 3)).numpy() == pytest.approx(means, abs=4)


def test_shapes_are_as_many_as_asked_for_and_balanced() -> None:
    dataset = load("shapes@80", CONFIG, side=64)
    assert dataset.name == "shapes@80"
    assert dataset.classes == tuple(OUTLINES)
    assert np.bincount(dataset.labels).tolist() == [10] * 8
    assert dataset.images.batch([0]).pixels.shape == (1, 3, 64, 64)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 56, "val": 8, "test": 16}


def test_a_shape_is_the_same_whatever_the_count() -> None:
    few, more = (load(f"shapes@{count}", CONFIG, side=64).images.batch(range(16)).pixels for count in (16, 40))
    assert (few == more).all()


def test_shapes_differ_from_one_another_and_are_drawn_quickly() -> None:
    start = time.process_time()
    drawn = [draw_shape(number) for number in range(0, 200, 8)]
    assert (time.process_time() - start) / len(drawn) < 5 / 3000
    assert len({image.tobytes() for image in drawn}) == len(drawn)


def test_a_shape_covers_part_of_its_image_with_smooth_edges() -> None:
    from hpt.data.embedded import _cover

    for outlines in OUTLINES.values():
        cover = _cover(np.random.default_rng(0), outlines)
        assert 0.02 < cover.mean() < 0.6
        assert ((cover > 0) & (cover < 1)).any()


@pytest.mark.parametrize("name", ["shapes@", "shapes@0", "shapes@x", "shapes@-1", "digits@10"])
def test_a_count_that_cannot_be_had_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        find(name)
    assert caught.value.fix


def test_flowers_have_the_official_split_classes_and_normalisation(flowers: Path) -> None:
    dataset = load("flowers", CONFIG, side=64)
    assert dataset.images.names[0] == "jpg/image_00001.jpg"
    assert {split: rows.tolist() for split, rows in dataset.splits.items()} == {
        "train": [0, 4],
        "val": [1, 2, 8],
        "test": [3, 5, 6, 7],
    }
    assert len(dataset.classes) == 102
    assert [dataset.classes[label] for label in dataset.labels] == ["001", "002", "102"] * 3
    assert dataset.images.mean == (0.4355, 0.3777, 0.2880)
    assert dataset.images.std == (0.2970, 0.2459, 0.2705)


def test_a_missing_flower_is_quarantined(flowers: Path) -> None:
    (flowers / "jpg" / "image_00003.jpg").unlink()
    dataset = load("flowers", DataConfig(max_unreadable=0.2), side=64)
    assert dataset.quarantined == (("jpg/image_00003.jpg", "No such file or directory"),)
    assert len(dataset.images) == 8


def test_damaged_label_files_are_named(flowers: Path) -> None:
    (flowers / "setid.mat").write_bytes(b"garbage" * 50)
    with pytest.raises(DataError, match=r"setid.mat is damaged"):
        load("flowers", CONFIG, side=64)
    savemat(flowers / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[10]]})
    with pytest.raises(DataError, match=r"names image 10 of 9"):
        load("flowers", CONFIG, side=64)


def test_without_a_network_one_line_says_where_to_put_which_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError) as caught:
        load("flowers", CONFIG, side=64)
    message = str(caught.value)
    assert "download failed" in message
    assert f"setid.mat into {tmp_path / 'data' / 'flowers-102'}" in message
    assert "\n" not in message
