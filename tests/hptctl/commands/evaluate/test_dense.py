"""Detection and segmentation from the command line: files of annotations to figures, tables and comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_dense import CLASSES, scene

FEW = ("--preset", "tiny", "--steps", "1", "--batch-size", "2", "--json")


@pytest.fixture
def cells(workplace: Path) -> Path:
    """Scenes with COCO's JSON beside them."""
    root = workplace / "cells"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(first, first + 3):
            pixels, boxes, _ = scene(number)
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
            for (left, top, right, bottom), label in zip(boxes.boxes.tolist(), boxes.labels.tolist(), strict=True):
                box = [left, top, right - left, bottom - top]
                annotations.append(
                    {"id": len(annotations), "image_id": number, "category_id": 3 * label + 1, "bbox": box}
                )
        categories = [{"id": 3 * label + 1, "name": name} for label, name in enumerate(CLASSES)]
        facts = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def streets(workplace: Path) -> Path:
    """The same with masks in folders."""
    root = workplace / "streets"
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(first, first + 3):
            pixels, _, mask = scene(number)
            Image.fromarray(pixels).save(root / split / "images" / f"{number}.jpg")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("ground\ndisc\nsquare\n")
    return root


def test_a_detector_is_trained_tested_once_shown_and_compared(hptctl, cells: Path) -> None:
    runs = []
    for seed in ("0", "1"):
        asked = ("evaluate", "detection", "untrained", "-d", str(cells), "--seed", seed, *FEW)
        runs.append(json.loads(hptctl(*asked).stdout))
    results, facts = runs[0]["results"], runs[0]["facts"]
    assert {"val/ap", "test/ap", "test/ap50", "test/ap75", "test/ap50_voc"} <= results.keys()
    assert (facts["metric"], facts["labels_used"], facts["test_images"]) == ("ap", "3", "3")
    assert facts["split_counts"] == "train=3 val=3 test=3"
    shown = json.loads(hptctl("evaluate", "show", runs[0]["name"], "--json").stdout)["classes"]
    assert [row["class"] for row in shown] == list(CLASSES)
    assert sum(row["objects"] for row in shown) == sum(len(scene(number)[1]) for number in range(200, 203))
    assert "AP50" in hptctl("evaluate", "show", runs[0]["name"]).stdout
    found = json.loads(hptctl("compare", runs[0]["name"], runs[1]["name"], "--metric", "ap50", "--json").stdout)
    assert found["metric"] == "ap50"
    hptctl("report", "--out", "report.html", "--images", "2")
    page = Path("report.html").read_text()
    assert "average precision" in page and "truth, and what it predicts" in page
    hptctl("report", "--out", "plain.html")
    assert "truth, and what it predicts" not in Path("plain.html").read_text()


@pytest.mark.slow
def test_a_segmenter_is_trained_and_tested_once(hptctl, streets: Path) -> None:
    asked = ("evaluate", "segmentation", "untrained", "-d", str(streets), *FEW)
    run = json.loads(hptctl(*asked).stdout)
    assert {"val/miou", "test/miou", "test/pixel_accuracy"} == run["results"].keys() - {"val/pixel_accuracy"}
    classes = json.loads(hptctl("evaluate", "show", run["name"], "--json").stdout)["classes"]
    assert [row["class"] for row in classes] == ["ground", "disc", "square"]
    pixels = np.bincount(np.concatenate([scene(number)[2].ravel() for number in range(200, 203)]), minlength=3)
    assert [row["pixels"] for row in classes] == pytest.approx(pixels.tolist(), rel=1e-5)


def test_images_without_boxes_or_masks_are_refused_in_one_line(hptctl, streets: Path) -> None:
    asked = ("untrained", "-d", "digits", "--preset", "tiny")
    for kind, word in (("detection", "box"), ("segmentation", "mask")):
        said = hptctl("evaluate", kind, *asked, code=2).stderr
        assert word in said and "Traceback" not in said
