"""From a name or a path to a dataset."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import grey_images

from hpt.config import DataConfig
from hpt.data.dataset import load
from hpt.errors import DataError

CONFIG = DataConfig()
pytestmark = pytest.mark.usefixtures("own_cache")


def classes(root: Path, count: int = 20) -> Path:
    return grey_images(root, *(f"{'ab'[i % 2]}/{i:03d}.png" for i in range(count)))


def test_class_folders_are_split_and_labelled(tmp_path: Path) -> None:
    dataset = load(str(classes(tmp_path / "my set", 40)), CONFIG, side=8)
    assert (dataset.name, dataset.task, dataset.metric) == ("my set", "single-label", "top1")
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 28, "val": 4, "test": 8}
    for split in ("train", "val", "test"):
        some, labels = dataset.split(split)
        assert [dataset.classes[label] for label in labels] == [name.split("/")[0] for name in some.names]
        grey = some.batch(range(len(some))).pixels[:, 0, 0, 0].tolist()
        assert grey == [int(Path(name).stem) for name in some.names]


def test_pretraining_sees_train_and_val_and_never_test(tmp_path: Path) -> None:
    dataset = load(str(classes(tmp_path / "set", 40)), CONFIG, side=8)
    seen = set(dataset.pretraining_images().names)
    assert seen.isdisjoint(dataset.split("test")[0].names)
    assert seen == set(dataset.split("train")[0].names) | set(dataset.split("val")[0].names)
    assert not hasattr(dataset.pretraining_images(), "labels")


def test_the_split_seed_moves_the_split_and_leaves_the_fingerprint(tmp_path: Path) -> None:
    root = str(classes(tmp_path / "set", 40))
    one, two = (load(root, DataConfig(split_seed=seed), side=8) for seed in (0, 1))
    assert one.fingerprint == two.fingerprint
    assert one.split_fingerprint != two.split_fingerprint
    assert one.split_fingerprint == load(root, CONFIG, side=8).split_fingerprint


def test_a_split_that_is_cut_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey_images(tmp_path / "set", *(f"train/a/{i}.png" for i in range(8)), "test/a/8.png", "test/a/9.png")
    with caplog.at_level(logging.INFO, logger="hpt.data"):
        dataset = load(str(tmp_path / "set"), CONFIG, side=8)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 7, "val": 1, "test": 2}
    assert "without val" in caplog.text


def test_other_labels_are_another_fingerprint(tmp_path: Path) -> None:
    one = load(str(grey_images(tmp_path / "1", "a/x.png", "b/y.png")), CONFIG, side=8)
    two = load(str(grey_images(tmp_path / "2", "a/x.png", "c/y.png")), CONFIG, side=8)
    assert one.fingerprint != two.fingerprint


def test_unlabelled_images_are_for_pretraining_only(tmp_path: Path) -> None:
    dataset = load(str(grey_images(tmp_path / "flat", "1.png", "2.png", "3.png")), CONFIG, side=8)
    assert dataset.classes == ()
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert len(dataset.pretraining_images()) == 3
    with pytest.raises(DataError, match="train images of flat have no labels") as caught:
        dataset.split("train")
    assert "one folder per class" in str(caught.value)
    with pytest.raises(DataError, match="flat has no test images"):
        dataset.split("test")


def test_an_unreadable_image_is_named_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = classes(tmp_path / "set", 120)
    (root / "a" / "000.png").write_text("a text file named .png")
    dataset = load(str(root), CONFIG, side=8)
    assert dataset.quarantined == (("a/000.png", "not an image in a known format"),)
    assert len(dataset.images) == len(dataset.labels) == 119
    assert "a/000.png" not in dataset.images.names
    (record,) = caplog.records
    assert "1 of 120" in record.getMessage() and "a/000.png (not an image" in record.getMessage()


def test_too_many_unreadable_images_stop_and_a_setting_lets_them_pass(tmp_path: Path) -> None:
    root = classes(tmp_path / "set", 40)
    for number in range(0, 10, 2):
        (root / "a" / f"{number:03d}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(str(root), CONFIG, side=8)
    message = str(caught.value)
    assert "5 of 40 images" in message
    assert "a/000.png (the file is empty), a/002.png" in message and "a/006.png" not in message
    assert "--set data.max_unreadable=0.13" in message
    dataset = load(str(root), DataConfig(max_unreadable=0.13), side=8)
    assert len(dataset.images) == 35
    assert dataset.labels.tolist() == [0] * 15 + [1] * 20


def test_no_readable_image_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "photo.jpg").write_text("text")
    with pytest.raises(DataError, match="none of the 1 images"):
        load(str(tmp_path / "set"), DataConfig(max_unreadable=1), side=8)


def test_a_name_wins_over_a_folder_and_a_path_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path / "here" / "digits")
    monkeypatch.chdir(tmp_path / "here")
    assert len(load("digits", CONFIG, side=8).images) == 1797
    assert len(load("./digits", CONFIG, side=8).images) == 20
    classes(tmp_path / "here" / "mine")
    assert load("mine", CONFIG, side=8).name == "mine"
    monkeypatch.chdir("mine")
    assert load(".", CONFIG, side=8).name == "mine"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("flwers", "did you mean 'flowers'"),
        ("no-such-thing", "no such folder"),
        ("./missing", "no such folder, zip file or list: ./missing"),
        ("missing.zip", "no such folder, zip file or list: missing.zip"),
        ("/gone/missing.zip", "if it has moved, say where it lies now by -d"),
        ("", "unknown dataset ''"),
    ],
)
def test_what_is_not_there_is_one_line(dataset: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(dataset, CONFIG, side=8)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        load(str(tmp_path / "images.tar.gz"), CONFIG, side=8)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    load(str(classes(tmp_path / "set", 21)), CONFIG, side=8, progress=lambda *now: seen.append(now))
    assert seen[-1] == (21, 21, "reading images")
    read = [done for done, _, what in seen if what == "reading images"]
    assert read == sorted(set(read))


@pytest.mark.shared
def test_real_aerial_images_come_with_their_split(shared_data: Path) -> None:
    dataset = load(str(shared_data / "aerial_rsscn7.zip"), CONFIG, side=32)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {
        "train": 1960,
        "val": 280,
        "test": 560,
    }
    assert len(dataset.classes) == 7
    assert dataset.images.batch(np.arange(4)).pixels.shape == (4, 3, 32, 32)
    assert 0.2 < dataset.images.mean[0] < 0.6


def test_pages_and_grey_levels_that_are_lost_are_said_once_and_from_the_cache_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hpt.data")
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        dim = Image.fromarray(random.integers(0, 4096, (64, 64)).astype(np.uint16))
        dim.save(path, save_all=True, append_images=[dim] * 2)
    for _ in range(2):
        caplog.clear()
        notes = load(str(tmp_path / "set"), CONFIG, side=8).notes
        assert notes[0].startswith("left out: 12 pages or frames after the first of 6 files")
        assert notes[1] == "intensity window 0 to 4,095 (measured on 2 train images); 8 bits"
        assert re.fullmatch(r"6 images of more than 8 bits keep 25\d of 2,\d+ grey levels \(median\)", notes[2])
        told = [record.getMessage() for record in caplog.records]
        assert [each for each in told if "comes without" not in each] == [f"set: {note}" for note in notes]
