"""`hptctl datasets info|check|preview` of images with boxes or masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotated_folders import (
    BOXES,
    coco_beside_splits,
    coco_facts,
    index_mask,
    jpeg,
    mask_numbers,
    masks_images_first,
    masks_voc,
    voc_folders,
    write_json,
    zipped,
)
from PIL import Image
from program import Hptctl

from hptctl.charts.targets import colour, with_boxes, with_mask

pytestmark = pytest.mark.usefixtures("own_cache")


def test_info_shows_the_objects_of_each_split_and_class_and_their_sizes(workplace: Path, hptctl: Hptctl) -> None:
    voc_folders(workplace / "set")
    done = hptctl("datasets", "info", str(zipped(workplace / "set")), "--image-size", "16")
    assert "detection: 7 objects of 2 classes, on 4 train, 1 val, 1 test images" in done.stdout
    rows = {line.split()[0]: line.split()[-3:] for line in done.stdout.splitlines() if line}
    assert (rows["cat"], rows["dog"]) == (["2", "1", "1"], ["2", "0", "1"])
    assert (rows["(small)"], rows["(large)"]) == (["4", "1", "2"], ["0", "0", "0"])


def test_info_for_scripts_has_all_of_it(workplace: Path, hptctl: Hptctl) -> None:
    coco_beside_splits(workplace / "set")
    facts = json.loads(hptctl("datasets", "info", "set", "--image-size", "16", "--json").stdout)
    (boxes,) = facts["targets"]
    assert (boxes["task"], boxes["classes"]) == ("detection", ["cat", "dog"])
    assert boxes["objects"] == {"train": [2, 2], "val": [1, 0], "test": [1, 1]}
    assert boxes["images_without_objects"] == {"train": 1, "val": 0, "test": 0}
    assert boxes["split_fingerprint"] == facts["split_fingerprint"]
    masks_images_first(workplace / "masked")
    facts = json.loads(hptctl("datasets", "info", "masked", "--image-size", "16", "--json").stdout)
    (masks,) = facts["targets"]
    assert masks["images_per_class"]["train"] == [4, 4]
    ignored = np.mean([mask_numbers(stem) == 2 for stem in "abcd"])
    assert masks["ignored_share"]["train"] == pytest.approx(ignored)
    assert sum(masks["pixel_shares"]["val"]) == pytest.approx(1)


def test_info_of_images_whose_annotations_are_damaged_warns_and_shows_the_images(
    workplace: Path, hptctl: Hptctl
) -> None:
    coco_beside_splits(workplace / "set")
    (workplace / "set" / "val.json").write_text('{"images": [], "categories": [')
    done = hptctl("datasets", "info", "set", "--image-size", "16")
    assert "warning: no detection on it: val.json is not whole JSON" in " ".join(done.stderr.split())
    assert "6 images (4 train, 1 val, 1 test)" in done.stdout
    for verb in ("info", "check"):
        (refused,) = json.loads(hptctl("datasets", verb, "set", "--json").stdout)["targets"]
        assert refused["task"] == "detection"
        assert refused["error"].startswith("val.json is not whole JSON")


def test_check_names_all_damaged_annotation_files(workplace: Path, hptctl: Hptctl) -> None:
    voc_folders(workplace / "set")
    damaged = sorted((workplace / "set" / "Annotations").iterdir())[:2]
    for path in damaged:
        path.write_text("<annotation>")
    (refused,) = json.loads(hptctl("datasets", "check", "set", "--json").stdout)["targets"]
    assert refused["error"].startswith("2 of 6 annotation files cannot be read: ")
    assert [path.name in file for path, file in zip(damaged, refused["files"], strict=True)] == [True, True]


def test_check_judges_boxes(workplace: Path, hptctl: Hptctl) -> None:
    coco_beside_splits(workplace / "set")
    boxes = [("dog", 0, 0, 8, 9), ("dog", 0, 0, 8, 9), ("cat", 5, 5, 5, 9), ("cat", -9, 0, 9, 9), ("cat", 1, 1, 2, 9)]
    write_json(workplace / "set" / "train.json", coco_facts({**BOXES["train"], "b": boxes}))  # type: ignore[dict-item]
    done = hptctl("datasets", "check", "set", "--json")
    doubts = {doubt["what"]: doubt for doubt in json.loads(done.stdout)["targets"][0]["doubts"]}
    counts = {what: doubt["found"] for what, doubt in doubts.items()}
    assert counts == {
        "dropped: of width or height 0": 1,
        "dropped: inverted": 0,
        "dropped: outside its image": 0,
        "dropped: no box": 0,
        "clipped to its image": 1,
        "of a resized image, scaled": 0,
        "of an image of another shape": 0,
        "the same object twice": 1,
        "tiny, below 4 px in the cache": 1,
        "absent classes": 1,
    }
    assert doubts["the same object twice"]["which"] == ["train/b.jpg"]
    assert doubts["absent classes"]["which"] == ["dog in val"]
    shown = hptctl("datasets", "check", "set").stdout
    assert "dog in val" in shown and "the same object twice" in shown


def test_check_judges_masks(workplace: Path, hptctl: Hptctl) -> None:
    masks_images_first(workplace / "set")
    Image.fromarray(mask_numbers("a")[1:]).save(workplace / "set" / "masks" / "train" / "a.png")
    strange = mask_numbers("b")
    strange[0] = 7
    Image.fromarray(strange).save(workplace / "set" / "masks" / "train" / "b.png")
    (checked,) = json.loads(hptctl("datasets", "check", "set", "--json").stdout)["targets"]
    doubts = {doubt["what"]: (doubt["found"], doubt["which"]) for doubt in checked["doubts"]}
    assert doubts["masks that do not fit"] == (1, ["train/a.jpg"])
    assert doubts["pixels of no listed class"] == (40, ["train/b.jpg"])
    assert any("numbers (7) that classes.json does not list" in note for note in checked["notes"])


def test_preview_draws_boxes_and_masks_beside_the_views(workplace: Path, hptctl: Hptctl) -> None:
    voc_folders(workplace / "set")
    masks_voc(workplace / "set")
    small = ("--image-size", "32", "--images", "2", "--views", "1")
    done = hptctl("datasets", "preview", "set", *small, "--json")
    assert json.loads(done.stdout)["targets"] == {"detection": ["cat", "dog"], "segmentation": ["sky", "road"]}
    with Image.open(workplace / "preview.png") as sheet:
        wide = sheet.width
    hptctl("datasets", "preview", "digits", *small, "--out", "plain.png")
    with Image.open(workplace / "plain.png") as sheet:
        assert wide - sheet.width == 2 * (128 + 8)


def test_a_box_is_drawn_in_the_colour_of_its_class_where_it_lies() -> None:
    image = np.full((50, 100, 3), 30, dtype=np.uint8)
    boxes = np.array([[10, 20, 60, 40]], dtype=np.float32)
    drawn = with_boxes(image, boxes, [1], [False], ["cat", "dog"], 200)
    assert drawn.shape == (200, 200, 3)
    assert (drawn[50 + 2 * 20 + 20, 20] == colour(1)).all()  # enlarged twice, in the middle of the square
    assert (drawn[50 + 60, 100] == 30).all()


def test_a_mask_colours_its_pixels_and_leaves_ignored_ones() -> None:
    image = np.full((40, 40, 3), 100, dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[:, 30:] = 255
    drawn = with_mask(image, mask, ["sky"], 40)
    assert (drawn[:4, 35] == 100).all() and (drawn[30:, 35] == 100).all()
    assert (drawn[38, 2] == np.round(0.45 * 100 + 0.55 * np.array(colour(0), dtype=np.float32))).all()


def test_a_dataset_of_both_is_read_as_each(workplace: Path, hptctl: Hptctl) -> None:
    voc_folders(workplace / "set")
    for images in BOXES.values():
        for stem in images:
            index_mask(workplace / "set" / "SegmentationClass" / f"{stem}.png", stem)
    jpeg(workplace / "set" / "JPEGImages" / "z.jpg")
    done = hptctl("datasets", "info", "set", "--image-size", "16")
    assert "detection: 7 objects" in done.stdout and "segmentation: 3 classes of pixels" in done.stdout
