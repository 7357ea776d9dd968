"""Boxes in every layout, as folder and zip: the same objects in the pixels of the cache, in the same splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotated_folders import (
    BOX_LAYOUTS,
    BOXES,
    HEIGHT,
    WIDTH,
    Box,
    coco_beside_splits,
    coco_facts,
    jpeg,
    table,
    text,
    voc_folders,
    voc_xml,
    write_json,
    yolo_lists,
    yolo_splits_first,
    zipped,
)
from PIL import Image

from hpt.config import DataConfig
from hpt.data.dataset import load as load_images
from hpt.data.paths import list_path
from hpt.dense import fit
from hpt.dense.annotated_boxes import UnreadableFiles
from hpt.dense.dataset import DenseDataset, load
from hpt.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")
CONFIG = DataConfig()
SIDE = 15
"""Half of the images' shorter side."""


def boxes_of(path: Path, side: int = SIDE, config: DataConfig = CONFIG) -> DenseDataset:
    return load(str(path), "detection", config, side=side)


def by_image(data: DenseDataset) -> dict[str, list[Box]]:
    """The boxes of each image of a split, in pixels of its file."""
    found = {}
    for rows in data.dataset.splits.values():
        for row in rows.tolist():
            its = data.boxes(row)
            corners = (its.boxes * data.enlarged(row)).round(3).tolist()
            stem = Path(data.dataset.images.names[row]).stem
            found[stem] = [(data.classes[i], *box) for i, box in zip(its.labels, corners, strict=True)]
    return found


def stems(data: DenseDataset) -> dict[str, set[str]]:
    names = data.dataset.images.names
    return {split: {Path(names[row]).stem for row in rows} for split, rows in data.dataset.splits.items()}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", BOX_LAYOUTS.values(), ids=list(BOX_LAYOUTS))
def test_every_layout_gives_the_same_boxes_in_the_same_splits(
    tmp_path: Path, layout: Callable[[Path], None], packed: bool
) -> None:
    layout(tmp_path / "set")
    data = boxes_of(zipped(tmp_path / "set") if packed else tmp_path / "set")
    assert data.classes == ("cat", "dog")
    assert stems(data) == {split: set(images) for split, images in BOXES.items()}
    assert by_image(data) == {stem: boxes for images in BOXES.values() for stem, boxes in images.items()}
    assert not data.faults
    assert {data.enlarged(row) for row in range(6)} == {2.0}
    first = data.boxes(0)
    assert (first.boxes.dtype, first.labels.dtype, first.difficult.dtype) == (np.float32, np.int64, np.bool_)
    with pytest.raises(TypeError):
        data.mask(0)


@pytest.mark.parametrize("layout", BOX_LAYOUTS.values(), ids=list(BOX_LAYOUTS))
def test_a_pretraining_on_it_has_the_same_images_in_the_same_splits(
    tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    layout(tmp_path / "set")
    plain = load_images(str(tmp_path / "set"), CONFIG, side=SIDE)
    data = boxes_of(tmp_path / "set")
    assert plain.images.names == data.dataset.images.names
    assert {s: r.tolist() for s, r in plain.splits.items()} == {s: r.tolist() for s, r in data.dataset.splits.items()}
    assert not plain.classes


def test_without_splits_a_pretraining_and_a_detection_cut_the_same_images_away(tmp_path: Path) -> None:
    everything = {f"{i:02d}": [("cat", 1, 1, 9, 9), ("dog", 2, 2, 8, 8)][: i % 3] for i in range(20)}
    write_json(tmp_path / "set" / "annotations.json", coco_facts(everything))
    for stem in everything:
        jpeg(tmp_path / "set" / "images" / f"{stem}.jpg")
    plain = load_images(str(tmp_path / "set"), CONFIG, side=SIDE)
    data = boxes_of(tmp_path / "set")
    assert {split: len(rows) for split, rows in data.dataset.splits.items()} == {"train": 14, "val": 2, "test": 4}
    assert plain.splits["test"].tolist() == data.dataset.splits["test"].tolist()
    assert plain.split_fingerprint == data.dataset.split_fingerprint


def test_a_table_of_boxes_is_a_dataset_by_itself(tmp_path: Path) -> None:
    table(tmp_path / "set")
    data = boxes_of(tmp_path / "set" / "boxes.csv")
    assert by_image(data) == {stem: boxes for images in BOXES.values() for stem, boxes in images.items()}
    assert stems(data)["test"] == {"f"}
    assert len(list_path(tmp_path / "set" / "boxes.csv").names) == 6


def test_images_smaller_than_the_side_are_not_enlarged(tmp_path: Path) -> None:
    coco_beside_splits(tmp_path / "set")
    data = boxes_of(tmp_path / "set", side=300)
    assert data.enlarged(0) == 1.0
    assert data.dataset.images.sizes[0].tolist() == [HEIGHT, WIDTH]


def test_the_fingerprint_is_that_of_the_boxes_too_and_not_of_the_side(tmp_path: Path) -> None:
    coco_beside_splits(tmp_path / "set")
    before = boxes_of(tmp_path / "set").dataset.fingerprint
    assert boxes_of(tmp_path / "set", side=20).dataset.fingerprint == before
    moved = {**BOXES["train"], "b": [("dog", 0, 0, 8, 10)]}
    write_json(tmp_path / "set" / "train.json", coco_facts(moved))
    assert boxes_of(tmp_path / "set").dataset.fingerprint != before


def test_difficult_objects_and_crowds_are_known(tmp_path: Path) -> None:
    voc_folders(tmp_path / "voc")
    text(tmp_path / "voc" / "Annotations" / "a.xml", voc_xml(BOXES["train"]["a"], difficult=True))
    data = boxes_of(tmp_path / "voc")
    assert data.boxes(data.dataset.images.names.index("a.jpg")).difficult.all()
    facts = coco_facts(BOXES["train"])
    facts["annotations"][0]["iscrowd"] = 1  # type: ignore[index]
    coco_beside_splits(tmp_path / "coco")
    write_json(tmp_path / "coco" / "train.json", facts)
    data = boxes_of(tmp_path / "coco")
    assert data.boxes(data.dataset.images.names.index("train/a.jpg")).difficult.tolist() == [True, False]


def test_bad_boxes_are_clipped_or_dropped_and_named(tmp_path: Path) -> None:
    coco_beside_splits(tmp_path / "set")
    bad: list[Box] = [
        ("cat", -5, 2, 10, 10),  # leaves its image
        ("cat", 3, 3, 3, 9),  # of width 0
        ("cat", 9, 9, 5, 12),  # inverted
        ("dog", 50, 50, 60, 60),  # outside
        ("dog", -0.6, 0, 12, 9),  # by less than a pixel
    ]
    facts = coco_facts({**BOXES["train"], "b": bad})
    facts["annotations"].append({"image_id": 2, "category_id": 3, "bbox": [1, 2, None, 4]})  # type: ignore[attr-defined]
    write_json(tmp_path / "set" / "train.json", facts)
    data = boxes_of(tmp_path / "set")
    assert by_image(data)["b"] == [("cat", 0, 2, 10, 10), ("dog", 0, 0, 12, 9)]
    assert sorted(fault.what for fault in data.faults) == sorted(
        [fit.CLIPPED, fit.EMPTY, fit.INVERTED, fit.OUTSIDE, fit.NO_NUMBER]
    )
    notes = "\n".join(data.dataset.notes)
    assert "4 boxes dropped (1 of width or height 0, 1 inverted, 1 outside its image, 1 no box): train/b.jpg" in notes
    assert "1 box clipped to its image: train/b.jpg" in notes


def turned_jpeg(path: Path, orientation: int) -> None:
    """A file of 40 x 30 that is shown as 30 x 40 by orientations from 5 on."""
    jpeg(path)
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[274] = orientation
        picture.load()
        picture.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_the_image_as_it_is_shown_unless_their_size_says_that_it_is_as_stored(
    tmp_path: Path, orientation: int
) -> None:
    mark = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mark[4:10, 24:36] = 255
    picture = Image.fromarray(mark)
    exif = picture.getexif()
    exif[274] = orientation
    size = (WIDTH, HEIGHT) if orientation > 4 else (0, 0)
    for stem in "abc":
        (tmp_path / "set" / "JPEGImages").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "set" / "JPEGImages" / f"{stem}.png", exif=exif)
        stored: Box = ("cat", 24, 4, 36, 10)
        if orientation < 5:  # nothing says that the file as stored is meant
            shown = fit.turned(np.array([stored[1:]], dtype=float), HEIGHT, WIDTH, orientation)[0]
            stored = ("cat", *shown.tolist())
        text(tmp_path / "set" / "Annotations" / f"{stem}.xml", voc_xml([stored], size))
    data = boxes_of(tmp_path / "set", side=300)
    left, top, right, bottom = data.boxes(0).boxes[0].astype(int).tolist()
    pixels = data.dataset.images.batch([0]).image(0).numpy()[0]
    assert (pixels[top:bottom, left:right] == 255).all()
    assert (pixels == 255).sum() == (bottom - top) * (right - left)


def test_an_annotation_of_an_image_that_was_resized_is_scaled_with_a_word(tmp_path: Path) -> None:
    voc_folders(tmp_path / "set")
    text(tmp_path / "set" / "Annotations" / "b.xml", voc_xml([("dog", 0, 0, 16, 18)], (2 * WIDTH, 2 * HEIGHT)))
    data = boxes_of(tmp_path / "set")
    assert by_image(data)["b"] == [("dog", 0, 0, 8, 9)]
    assert "1 box of a resized image, scaled: b.jpg" in "\n".join(data.dataset.notes)


def test_outlines_of_yolo_become_the_boxes_around(tmp_path: Path) -> None:
    yolo_splits_first(tmp_path / "set")
    text(tmp_path / "set" / "train" / "labels" / "b.txt", "1 0.1 0.2 0.5 0.2 0.5 0.6\n")
    assert by_image(boxes_of(tmp_path / "set"))["b"] == [("dog", 4, 6, 20, 18)]


@pytest.mark.parametrize("layout", [yolo_splits_first, yolo_lists, voc_folders])
def test_texts_may_begin_with_a_byte_order_mark(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    """Those of boxes, and the lists of splits, whose first image it would hide."""
    layout(tmp_path / "set")
    plain = boxes_of(tmp_path / "set").dataset
    for path in (tmp_path / "set").rglob("*.txt"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    marked = boxes_of(tmp_path / "set").dataset
    assert (marked.fingerprint, marked.split_fingerprint) == (plain.fingerprint, plain.split_fingerprint)


def test_a_yolo_image_without_a_text_has_no_objects_and_is_counted(tmp_path: Path) -> None:
    yolo_splits_first(tmp_path / "set")
    (tmp_path / "set" / "train" / "labels" / "b.txt").unlink()
    data = boxes_of(tmp_path / "set")
    assert by_image(data)["b"] == []
    assert "1 image without a file of labels: no objects, as train/images/b.jpg" in "\n".join(data.dataset.notes)


def test_images_that_no_list_of_splits_names_are_left_out(tmp_path: Path) -> None:
    voc_folders(tmp_path / "set")
    jpeg(tmp_path / "set" / "JPEGImages" / "z.jpg")
    for listing in (list_path(tmp_path / "set"), boxes_of(tmp_path / "set").dataset.images):
        assert len(listing.names) == 6
    assert "no list of splits names them: 1 image, as z.jpg" in list_path(tmp_path / "set").notes[-1].text


def test_images_that_the_json_does_not_mention_and_entries_without_an_image_are_counted(tmp_path: Path) -> None:
    coco_beside_splits(tmp_path / "set")
    jpeg(tmp_path / "set" / "train" / "stranger.jpg")
    (tmp_path / "set" / "train" / "d.jpg").unlink()
    data = boxes_of(tmp_path / "set")
    assert stems(data)["train"] == {"a", "b", "c"}
    notes = "\n".join(data.dataset.notes)
    assert "1 image of the annotations are not there: d.jpg" in notes
    assert "1 image without annotations left out of all splits: train/stranger.jpg" in notes


def test_one_image_is_enough_to_load(tmp_path: Path) -> None:
    write_json(tmp_path / "set" / "train.json", coco_facts({"a": BOXES["train"]["a"]}))
    jpeg(tmp_path / "set" / "train" / "a.jpg")
    data = boxes_of(tmp_path / "set")
    assert {split: len(rows) for split, rows in data.dataset.splits.items()} == {"train": 1, "val": 0, "test": 0}


def break_category(root: Path) -> None:
    facts = coco_facts(BOXES["train"])
    facts["categories"] = facts["categories"][:1]  # type: ignore[index]
    write_json(root / "train.json", facts)
    for split in ("val", "test"):
        (root / f"{split}.json").unlink()
    for name in "ef":
        next(root.rglob(f"{name}.jpg")).unlink()


def rename_images(root: Path) -> None:
    for path in list((root / "train").iterdir()):
        path.rename(path.with_name(f"x{path.name}"))


def truncate(root: Path) -> None:
    (root / "train.json").write_text((root / "train.json").read_text()[:-30])


def no_boxes(root: Path) -> None:
    for split, images in BOXES.items():
        write_json(root / f"{split}.json", coco_facts(dict.fromkeys(images, ())))


def other_names(root: Path) -> None:
    facts = json.loads(json.dumps(coco_facts(BOXES["val"])).replace("cat", "cow"))
    write_json(root / "val.json", {**facts, "categories": facts["categories"]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_boxes, "has annotations and not one box; annotate"),
        (rename_images, r"4 of 4 images of train.json are not there: a.jpg, b.jpg, c.jpg, ...; put the images"),
        (truncate, "train.json is not whole JSON"),
        (break_category, "has the category 7, which is none of its categories"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    coco_beside_splits(tmp_path / "set")
    damage(tmp_path / "set")
    with pytest.raises(DataError, match=message) as caught:
        boxes_of(tmp_path / "set")
    assert caught.value.fix and "\n" not in str(caught.value)


def test_xml_with_a_document_type_is_refused(tmp_path: Path) -> None:
    voc_folders(tmp_path / "set")
    bomb = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    text(tmp_path / "set" / "Annotations" / "a.xml", bomb + voc_xml(BOXES["train"]["a"]))
    with pytest.raises(DataError, match=r"a.xml is refused: it declares a document type; remove its DOCTYPE"):
        boxes_of(tmp_path / "set")


def test_a_class_that_the_yaml_does_not_name_is_refused(tmp_path: Path) -> None:
    yolo_splits_first(tmp_path / "set")
    text(tmp_path / "set" / "data.yaml", "names: [cat]\n")
    with pytest.raises(DataError, match=r"has the class 1, and data.yaml names 0 to 0"):
        boxes_of(tmp_path / "set")


@pytest.mark.parametrize(
    ("layout", "files"), [(voc_folders, "Annotations/*.xml"), (yolo_splits_first, "**/labels/*.txt")]
)
def test_damaged_files_are_all_named_at_once(
    tmp_path: Path, layout: Callable[[Path], None], files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout(tmp_path / "set")
    found = sorted((tmp_path / "set").glob(files))
    for path in found[:2]:
        path.write_text("cat 1 2")
    monkeypatch.setattr("hpt.dense.annotated_boxes.FIRST", 1)
    with pytest.raises(UnreadableFiles, match=r"2 of \d annotation files cannot be read: .*; and 1 more; ") as caught:
        boxes_of(tmp_path / "set")
    reasons = sorted(caught.value.reasons)
    assert [path.name in reason for path, reason in zip(found, reasons, strict=False)] == [True] * 2
    assert caught.value.fix == reasons[0].split("; ")[-1]
    assert "\n" not in str(caught.value)


def test_without_names_the_classes_of_yolo_are_called_by_number(tmp_path: Path) -> None:
    yolo_splits_first(tmp_path / "set")
    (tmp_path / "set" / "data.yaml").unlink()
    data = boxes_of(tmp_path / "set")
    assert data.classes == ("0", "1")
    assert "no data.yaml names the classes" in "\n".join(data.dataset.notes)


def test_a_folder_without_boxes_is_refused_with_the_layouts(tmp_path: Path) -> None:
    jpeg(tmp_path / "set" / "a.jpg")
    jpeg(tmp_path / "set" / "b.jpg")
    with pytest.raises(DataError, match="set has no boxes beside its images that hptctl reads; it reads COCO's JSON"):
        boxes_of(tmp_path / "set")
    with pytest.raises(DataError, match="digits has no boxes"):
        load("digits", "detection", CONFIG, side=8)


@pytest.mark.shared
def test_real_blood_cells_come_with_their_boxes(shared_data: Path) -> None:
    data = boxes_of(shared_data / "bccd_cells.zip", side=240)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert {split: len(rows) for split, rows in data.dataset.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert sum(len(data.boxes(row)) for row in range(364)) == 4888


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photos/a.jpg,train,1,2,x,4,cat", r"boxes.csv, line 2: '1,2,x,4' are no four numbers"),
        (",train,1,2,3,4,cat", r"boxes.csv, line 2 names no image"),
    ],
)
def test_a_line_of_a_table_that_is_not_clear_is_refused_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    table(tmp_path / "set")
    file = tmp_path / "set" / "boxes.csv"
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, line, *rest]))
    with pytest.raises(DataError, match=message):
        boxes_of(tmp_path / "set")
