"""Folders as people name and nest them: what is read as splits, what as classes, and what is left out with a word."""

from __future__ import annotations

import io
import logging
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hpt.config import DataConfig
from hpt.data.dataset import load
from hpt.data.folder import list_folder, list_zip
from hpt.data.listing import Listing
from hpt.errors import DataError
from hptctl.charts import contact_sheet

pytestmark = pytest.mark.usefixtures("own_cache")


def picture(kind: str = "PNG", size: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, kind)
    return file.getvalue()


PNG = picture()


def fill(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def classes(*folders: str) -> list[str]:
    """A cat and a dog in each folder, of other names in each."""
    return [f"{folder}/{kind}/{i}{kind}.png" for i, folder in enumerate(folders) for kind in ("cat", "dog")]


def said(listing: Listing) -> str:
    return "\n".join(note.text for note in listing.notes)


def of_split(listing: Listing) -> dict[str, int]:
    return dict(Counter(listing.splits))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("TRAIN", "VAL", "TEST"),
        ("Training", "Validation", "Testing"),
        ("training_set", "dev", "test_set"),
        ("train_images", "valid_images", "test_images"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("images/train2017", "images/val2017", "images/test2017"),
        ("train/images", "valid/images", "test/images"),
        ("a/b/c/train", "a/b/c/val", "a/b/c/test"),
        ("dataset/train", "dataset/development", "dataset/hold_out"),
        ("fruit_train", "fruit_val", "fruit_test"),
        ("training/train", "training/val", "test"),
        ("Training", "Validierung", "Testdaten"),
        ("entraînement", "validation", "évaluation"),
        ("entrenamiento", "validación", "prueba"),
        ("обучение", "валидация", "тест"),
        ("训练集", "验证集", "测试集"),
    ],
)
def test_splits_are_found_under_the_names_that_people_give_them(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    for folder, split in ((train, "train"), (val, "val"), (test, "test")):
        fill(tmp_path, *(f"{folder}/{kind}/{split}-{kind}.png" for kind in ("cat", "dog")))
    listing = list_folder(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert all(f"{split}-" in name for name, split in zip(listing.names, listing.splits, strict=True))
    assert of_split(listing) == {"train": 2, "val": 2, "test": 2}


def test_other_names_than_the_plain_ones_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list_folder(fill(tmp_path, *classes("Training", "Testing")))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path.name}: read as splits: Testing is test, Training is train"
    ]


def test_two_words_for_a_class_in_the_names_of_the_splits_are_its_classes(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"))
    assert (listing.classes, of_split(listing)) == (("a", "b"), {"train": 2, "test": 2})


@pytest.mark.parametrize(
    "names",
    [
        ["test tube/1.png", "beaker/2.png"],
        ["valid/1.png", "invalid/2.png"],
        ["mask/1.png", "no_mask/2.png"],
        ["label_0/1.png", "label_1/2.png"],
        ["photo/1.png", "sketch/2.png"],
        ["crash_test/1.png", "street/2.png"],
    ],
)
def test_words_that_mean_something_else_stay_classes(tmp_path: Path, names: list[str]) -> None:
    plain = list_folder(fill(tmp_path / "plain", *names))
    assert len(plain.classes) == 2 and not plain.notes
    in_splits = list_folder(fill(tmp_path / "splits", *(f"{split}/{n}" for split in ("train", "test") for n in names)))
    assert in_splits.classes == plain.classes
    assert of_split(in_splits) == {"train": 2, "test": 2}


def test_splits_below_the_classes_are_splits_and_a_note_says_so(tmp_path: Path) -> None:
    names = [f"{kind}/{split}/{kind}{split}.png" for kind in ("cat", "dog") for split in ("train", "test")]
    listing = list_folder(fill(tmp_path, *names))
    assert (listing.classes, of_split(listing)) == (("cat", "dog"), {"train": 2, "test": 2})
    assert "splits below the classes: cat, dog" in said(listing)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/1.png", "dog/2.png", "test/3.png"], "'test' beside cat, dog: it may be a class or a split; rename"),
        (["cat/train/1.png", "cat/test/2.png", "dog/3.png"], "'cat/test' in .* may be a split"),
        (["cat/1.png", "dog/2.png", "masks/other.png"], "'masks' in .* may be a class, or hold masks"),
        (["images/1.png", "1st_manual/2.png"], "'images' in .* lies beside 1st_manual"),
        (["fold1/cat/1.png", "fold2/cat/2.png"], "folds of a cross-validation"),
        (
            classes("color", "grayscale", "segmented"),
            "versions of the same images, not classes; name one of them: .*color",
        ),
        (["test/train/cat/1.png", "test/val/cat/2.png", "train/cat/3.png"], "which may belong to test or not"),
        (["train/cat/1.png", "val/dog/2.png", "train/dog/x.psd"], "class 'dog' has no images in .* only 1 .psd that"),
    ],
)
def test_what_would_cost_a_result_is_refused_with_what_to_do(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list_folder(fill(tmp_path, *names))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["images/1.png", "images/2.png"], ["masks/1.png", "masks/2.png"]),
        (["VOC/JPEGImages/1.png"], ["VOC/SegmentationClass/1.png", "VOC/SegmentationObject/1.png"]),
        (["train/a.png", "test/b.png"], ["train_masks/a_mask.png"]),
        (["train/cat/1.png", "train/dog/2.png"], ["masks/cat/1.png", "masks/dog/2.png"]),
        (["cat/images/1.png", "dog/images/2.png"], ["cat/masks/1.png", "dog/masks/2.png"]),
        (["cat/1.png", "dog/x (2).png"], ["cat/1_mask.png", "dog/x (2)_mask_1.png"]),
        (["DUTS-TR/DUTS-TR-Image/1.png", "DUTS-TE/DUTS-TE-Image/2.png"], ["DUTS-TR/DUTS-TR-Mask/1.png"]),
        (["a.png", "b.png"], ["ground_truth/a.png"]),
    ],
)
def test_masks_beside_images_are_left_out_and_counted(tmp_path: Path, images: list[str], masks: list[str]) -> None:
    listing = list_folder(fill(tmp_path, *images, *masks))
    assert len(listing.names) == len(images)
    assert all(any(image.endswith(name) for image in images) for name in listing.names)
    assert f"{len(masks)} image" in said(listing) and "as masks" in said(listing)
    assert any(note.doubtful for note in listing.notes)


def test_annotations_beside_images_make_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "images/train/1.png", "images/val/2.png")
    fill(tmp_path, "labels/train/1.txt", "labels/val/2.txt", "data.yaml", content=b"text")
    listing = list_folder(tmp_path)
    assert (of_split(listing), listing.classes) == ({"train": 1, "val": 1}, ())
    assert "no images: 2 .txt, 1 .yaml" in said(listing)


def test_programs_and_texts_beside_classes_make_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.png", "dog/2.png")
    fill(tmp_path, "src/a.py", "docs/a.md", content=b"text")
    assert list_folder(tmp_path).classes == ("cat", "dog")


def test_a_list_of_splits_that_is_not_read_is_said(tmp_path: Path) -> None:
    fill(tmp_path, "food/images/cat/1.png", "food/images/dog/2.png")
    fill(tmp_path, "food/meta/test.txt", "food/meta/train.txt", content=b"cat/1")
    assert "food/meta/test.txt and 1 more may say what is test" in said(list_folder(tmp_path))


def test_folders_called_test_deep_below_a_class_are_said(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "cat/2020/test/1.png", "cat/2.png", "dog/3.png"))
    assert "1 image in folders 'test' are read as training images" in said(listing)


def test_unlabelled_images_beside_labelled_ones_are_left_out_with_a_word(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, *classes("train", "test"), "unlabeled/1.png"))
    assert of_split(listing) == {"train": 2, "test": 2}
    assert "1 image in unlabeled are left out" in said(listing)
    flat = list_folder(fill(tmp_path / "flat", "train/1.png", "test/2.png", "unlabeled/3.png"))
    assert of_split(flat) == {"train": 2, "test": 1}


def test_parts_of_a_folder_are_one(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, "images_001/images/1.png", "images_002/images/2.png"))
    assert (listing.classes, len(listing.names)) == ((), 2)


def test_classes_that_all_hold_the_same_folders_are_doubted(tmp_path: Path) -> None:
    listing = list_folder(fill(tmp_path, *classes("amazon", "webcam")))
    assert listing.classes == ("amazon", "webcam")
    assert "each of them holds cat, dog, which are not" in said(listing)


def test_what_this_program_has_written_into_the_folder_is_none_of_its_images(tmp_path: Path) -> None:
    before = list_folder(fill(tmp_path, "cat/1.png", "dog/2.png"))
    fill(tmp_path, "runs/a/run.json", "mlflow.db", content=b"{}")
    fill(tmp_path, "runs/a/artifacts/samples.png", "mlartifacts/1/a/samples.png")
    contact_sheet.write(Image.new("RGB", (9, 9)), tmp_path / "crops.png")
    listing = list_folder(tmp_path)
    assert (listing.names, listing.classes) == (before.names, before.classes)
    assert said(listing) == "left out, since hptctl has written them: mlartifacts/, runs/, crops.png"


def test_images_are_known_by_suffix_or_by_content(tmp_path: Path) -> None:
    kinds = {"1.jfif": "JPEG", "2.jp2": "JPEG2000", "3.avif": "AVIF", "4": "JPEG", "5.php": "PNG", "6.4711": "WEBP"}
    for name, kind in kinds.items():
        fill(tmp_path, f"ab/{name}", content=picture(kind, 40))
    fill(tmp_path, "ab/7", content=b"no image")
    fill(tmp_path, "ab/8", content=bytes(128) + b"DICM")
    fill(tmp_path, "ab/9.psd", "ab/10.mp4", content=b"x")
    fill(tmp_path, "cd/x.png")
    dataset = load(str(tmp_path), DataConfig(max_unreadable=0.2), side=8)
    assert len(dataset.images) == 7
    (unread,) = [note for note in dataset.notes if "does not read" in note]
    assert all(f"1 {suffix}" in unread for suffix in (".psd", ".mp4"))
    assert [name for name, _ in dataset.quarantined] == ["ab/8"]
    assert "no images: 1 without extension" in "\n".join(dataset.notes)


def test_a_zip_is_read_by_content_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("Training/cat/1", "Training/dog/2", "Testing/cat/3", "Testing/dog/4"):
            archive.writestr(name, PNG)
        archive.writestr("Training/notes", "text")
    listing = list_zip(tmp_path / "a.zip")
    assert of_split(listing) == {"train": 2, "test": 2}
    assert "no images: 1 without extension" in said(listing)
