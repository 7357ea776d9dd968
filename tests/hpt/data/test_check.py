"""The leak guard, on images that leak and images that do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import image
from PIL import Image, ImageEnhance
from small_images import grey_images

from hpt.config import DataConfig
from hpt.data import check as guard
from hpt.data import quarantine
from hpt.data.check import CheckResult, Duplicate, check
from hpt.data.dataset import load
from hpt.data.embedded import draw_shape
from hpt.errors import DataError


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Train, val and test of drawn shapes: two classes, 16 + 8 + 8 images, none like another."""
    root = tmp_path / "shapes"
    for number in range(32):
        split = ("train", "val", "train", "test")[number % 4]
        path = root / split / "ab"[number // 4 % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_shape(number)).save(path)
    return root


def named(report: CheckResult, pairs: tuple[Duplicate, ...]) -> set[tuple[str, str]]:
    return {(report.names[pair.first], report.names[pair.second]) for pair in pairs}


def test_nothing_is_found_where_nothing_is_wrong(folder: Path) -> None:
    report = check(folder, DataConfig())
    assert (report.leaks, report.repeats, report.contradictions, report.unreadable, report.odd) == ((),) * 5
    assert (dict(report.absent), dict(report.miscounted), dict(report.modes)) == ({}, {}, {"RGB": 32})
    assert report.sizes.tolist() == [[64, 64]] * 32


def test_copies_in_two_splits_leak_however_they_were_saved(folder: Path) -> None:
    shutil.copy(folder / "test" / "a" / "03.png", folder / "train" / "a" / "copy.png")
    with Image.open(folder / "test" / "b" / "07.png") as original:
        original.save(folder / "val" / "b" / "recompressed.jpg", quality=60)
        ImageEnhance.Brightness(original.resize((97, 97))).enhance(0.8).save(folder / "train" / "b" / "darker.png")
    report = check(folder, DataConfig())
    exact = tuple(pair for pair in report.leaks if pair.exact)
    near = tuple(pair for pair in report.leaks if not pair.exact)
    assert named(report, exact) == {("train/a/copy.png", "test/a/03.png")}
    assert {pair[0] for pair in named(report, near)} == {"val/b/recompressed.jpg", "train/b/darker.png"}
    assert all(0.99 <= pair.likeness < 1 for pair in near)
    assert set(report.to_leave_out()) == {"train/a/copy.png", "val/b/recompressed.jpg", "train/b/darker.png"}
    assert "test image test/a/03.png" in report.to_leave_out()["train/a/copy.png"]
    assert named(check(folder, DataConfig(), near=1), check(folder, DataConfig(), near=1).leaks) == named(report, exact)


def test_what_is_repeated_in_a_split_is_no_leak_but_other_labels_are_said(folder: Path) -> None:
    shutil.copy(folder / "train" / "a" / "00.png", folder / "train" / "a" / "again.png")
    shutil.copy(folder / "train" / "a" / "02.png", folder / "train" / "b" / "other.png")
    report = check(folder, DataConfig())
    assert report.leaks == ()
    assert named(report, report.repeats) == {
        ("train/a/00.png", "train/a/again.png"),
        ("train/a/02.png", "train/b/other.png"),
    }
    assert named(report, report.contradictions) == {("train/a/02.png", "train/b/other.png")}


def test_a_cut_of_ours_is_checked_as_runs_make_it(tmp_path: Path) -> None:
    for number in range(30):
        image(tmp_path / "mine" / "ab"[number % 2] / f"{number // 2:02d}.png", number // 2)  # each under both classes
    report = check(tmp_path / "mine", DataConfig(split_seed=3))
    dataset = load(str(tmp_path / "mine"), DataConfig(split_seed=3), side=32)
    for split, rows in dataset.splits.items():
        assert [report.names[i] for i in report.splits[split]] == [dataset.images.names[i] for i in rows]
    assert len(report.contradictions) == 15
    assert len(report.leaks) > 0


def test_a_quarantine_list_is_left_out_of_runs_and_moves_no_other_image(tmp_path: Path) -> None:
    for number in range(40):
        image(tmp_path / "mine" / "ab"[number % 2] / f"{number:02d}.png", number)
    before = load(str(tmp_path / "mine"), DataConfig(), side=32)
    test_image = before.images.names[before.splits["test"][0]]
    train_image = before.images.names[before.splits["train"][0]]
    shutil.copy(tmp_path / "mine" / test_image, tmp_path / "mine" / train_image)
    report = check(tmp_path / "mine", DataConfig())
    assert named(report, report.leaks) == {(train_image, test_image)}

    place = quarantine.place(tmp_path / "mine")
    assert place == tmp_path / "mine.quarantine.csv"
    quarantine.write(place, report.to_leave_out() | {"gone.png": "not there"})
    after = load(str(tmp_path / "mine"), DataConfig(), side=32)
    splits = [{d.images.names[i] for rows in d.splits.values() for i in rows} for d in (before, after)]
    assert splits[0] - splits[1] == {train_image}
    assert set(after.images.names) == set(before.images.names)
    assert [name for name, _ in after.quarantined] == [train_image]
    assert "a copy of test image" in after.quarantined[0][1]
    for split in ("val", "test"):
        assert after.splits[split].tolist() == before.splits[split].tolist()
    assert after.split_fingerprint != before.split_fingerprint
    assert train_image not in after.pretraining_images().names
    again = check(tmp_path / "mine", DataConfig(), left_out=quarantine.read(place))
    assert (again.leaks, len(again.names)) == ((), 39)
    kept = quarantine.read(place)
    place.write_text(place.read_text(), encoding="utf-8-sig")  # as Excel saves it
    assert quarantine.read(place) == kept


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,why\na.png,b\n", "does not have the columns name,reason"),
        ("", "does not have"),
        ('name,reason\n"a', "cannot be read"),
    ],
)
def test_a_quarantine_list_that_is_none_is_one_line(folder: Path, content: str, expected: str) -> None:
    quarantine.place(folder).write_text(content)
    with pytest.raises(DataError, match=expected):
        load(str(folder), DataConfig(), side=32)


def test_a_run_is_warned_of_equal_files_before_it_begins(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(folder / "test" / "a" / "03.png", folder / "train" / "a" / "copy.png")
    load(str(folder), DataConfig(), side=32)
    assert "1 of 8 test images are also in train or val; `hptctl datasets check" in caplog.text


def test_unreadable_odd_and_absent_are_named(folder: Path) -> None:
    (folder / "train" / "a" / "00.png").write_bytes(b"no image")
    grey_images(folder, "train/a/flat.png")
    image(folder / "train" / "b" / "long.png", 5, (200, 20))
    image(folder / "train" / "b" / "small.png", 6, (9, 9))
    image(folder / "train" / "c" / "new.png", 7)
    report = check(folder, DataConfig())
    assert report.unreadable == (("train/a/00.png", "not an image in a known format"),)
    assert dict(report.odd) == {
        "train/a/flat.png": "6 x 5 px",
        "train/b/long.png": "200 x 20 px, 10 times as long as wide",
        "train/b/small.png": "9 x 9 px",
    }
    assert dict(report.absent) == {"val": ("c",), "test": ("c",)}
    assert dict(report.modes) == {"RGB": 34, "L": 1}


def test_blank_images_are_not_alike_unless_they_are_equal(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "blank" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 255 - number // 2).save(path)
    report = check(tmp_path / "blank", DataConfig())
    pairs = (*report.leaks, *report.repeats)
    assert pairs and all(pair.exact for pair in pairs)
    assert {why for _, why in report.odd} == {"one colour"}


def test_blocks_find_what_one_block_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (3, 7, 11):
        with Image.open(next(folder.glob(f"*/*/{number:02d}.png"))) as original:
            original.save(folder / "train" / "a" / f"{number}.jpg")
    whole = check(folder, DataConfig())
    assert len(whole.leaks) == 3
    monkeypatch.setattr(guard, "BLOCK", 5)
    assert check(folder, DataConfig()).leaks == whole.leaks


def test_a_set_of_one_picture_is_one_line_and_no_flood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_PAIRS", 20)
    for number in range(10):
        shutil.copy(folder / "test" / "a" / "03.png", folder / "train" / "a" / f"copy{number}.png")
    with pytest.raises(DataError, match="11 files are equal, byte for byte"):
        check(folder, DataConfig())


@pytest.mark.slow
@pytest.mark.shared
def test_the_flowers_that_are_in_val_and_test_are_found(shared_data: Path) -> None:
    report = check(shared_data / "flowers102.zip", DataConfig())
    assert named(report, report.leaks) == {
        ("val/039/image_07029.jpg", "test/039/image_08080.jpg"),
        ("val/078/image_01835.jpg", "test/078/image_01858.jpg"),
        ("val/078/image_01929.jpg", "test/078/image_01959.jpg"),
    }
    assert np.mean(report.sizes) == 64
