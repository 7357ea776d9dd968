"""Average precision and IoU equal the reference's, and their weighted forms the figures of repeated images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpt.dense import figures
from hpt.dense.figures import Detections
from hpt.dense.targets import IGNORED, Boxes, no_boxes
from hpt.metrics import weighted


def some(images: int, seed: int = 0, classes: int = 3) -> tuple[list[Boxes], list[Detections]]:
    """Objects of all sizes, some difficult, and boxes that find some of them."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        many = int(random.integers(0, 9))
        corner, extent = random.random((many, 2)) * 200, 8 + random.random((many, 2)) * 120
        boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
        labels = random.integers(0, classes, many)
        truth.append(Boxes(boxes, labels, random.random(many) < 0.1))
        moved = boxes + random.normal(0, 6, boxes.shape).astype(np.float32)
        extra = int(random.integers(0, 4))
        corner = random.random((extra, 2)) * 200
        moved = np.concatenate([moved, np.concatenate([corner, corner + 40], axis=1)]).astype(np.float32)
        guessed = np.concatenate([np.where(random.random(many) < 0.9, labels, 0), random.integers(0, classes, extra)])
        scores = random.random(len(moved)).astype(np.float32)
        order = np.argsort(-scores)
        found.append(Detections(moved[order], scores[order], guessed[order].astype(np.int64)))
    return truth, found


def reference(truth: Sequence[Boxes], found: Sequence[Detections], classes: int) -> list[float]:
    """What pycocotools' own summary says: AP, AP50, AP75, small, medium, large."""

    def rows(each: Boxes | Detections, image: int, **more: object) -> list[dict[str, object]]:
        return [
            {
                "image_id": image,
                "category_id": int(label) + 5,
                "bbox": [float(x) for x in (b[0], b[1], b[2] - b[0], b[3] - b[1])],
                "area": float((b[2] - b[0]) * (b[3] - b[1])),
            }
            for b, label in zip(each.boxes, each.labels, strict=True)
        ]

    objects, results = [], []
    for image, (true, guess) in enumerate(zip(truth, found, strict=True)):
        for row, hard in zip(rows(true, image), true.difficult, strict=True):
            objects.append(row | {"id": len(objects) + 1, "iscrowd": int(hard)})
        results += [row | {"score": float(s)} for row, s in zip(rows(guess, image), guess.scores, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": c + 5, "name": str(c)} for c in range(classes)],
            "annotations": objects,
        }
        gold.createIndex()
        evaluated = COCOeval(gold, gold.loadRes(results), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return [float(value) for value in evaluated.stats[:6]]


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_pycocotools(seed: int) -> None:
    truth, found = some(40, seed)
    mine = figures.detection(truth, found, 3).figures
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    for name, theirs in zip(names, reference(truth, found, 3), strict=True):
        assert mine[name] == pytest.approx(theirs, abs=1e-6), name


def test_an_image_that_counts_twice_is_as_if_it_were_there_twice() -> None:
    truth, found = some(25, 7)
    measured = figures.detection(truth, found, 3)
    times = np.random.default_rng(1).multinomial(25, np.full(25, 1 / 25), size=6).astype(np.float32)
    for metric in figures.DETECTION:
        mine = weighted(metric, measured.packed, measured.objects)(times)
        for row, value in zip(times, mine, strict=True):
            again = np.repeat(np.arange(25), row.astype(int))
            repeated = figures.detection([truth[i] for i in again], [found[i] for i in again], 3)
            assert value == pytest.approx(repeated.figures[metric], abs=1e-9)


def test_perfect_boxes_have_an_average_precision_of_one_and_none_of_nothing() -> None:
    truth, _ = some(12, 3)
    perfect = [Detections(each.boxes, np.ones(len(each), np.float32), each.labels) for each in truth]
    found = figures.detection(truth, perfect, 4)
    assert found.figures["ap"] == found.figures["ap50_voc"] == 1
    assert np.isnan(found.per_class[3]).all()
    nothing = [Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))] * 12
    assert figures.detection(truth, nothing, 4).figures["ap"] == 0
    assert "ap" not in figures.detection([no_boxes()] * 3, nothing[:3], 2).figures


def test_vocs_area_is_that_under_the_envelope_of_the_curve() -> None:
    """Three objects; right, wrong, right: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60]], np.float32)
    truth = [Boxes(boxes, np.zeros(3, np.int64), np.zeros(3, np.bool_))]
    guesses = np.array([[0, 0, 10, 10], [80, 80, 90, 90], [50, 0, 60, 10]], np.float32)
    found = [Detections(guesses, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))]
    assert figures.detection(truth, found, 1).figures["ap50_voc"] == pytest.approx((1 + 2 / 3) / 3)


def test_mean_iou_is_of_all_pixels_together_and_leaves_the_ignored_out() -> None:
    truth = [np.array([[0, 0, 1], [1, IGNORED, 1]], np.uint8), np.array([[2, 2, 2]], np.uint8)]
    found = [np.array([[0, 1, 1], [1, 2, 0]], np.uint8), np.array([[2, 2, 0]], np.uint8)]
    cells, pixels = figures.confusions(truth, found, 4)
    assert pixels.tolist() == [[2, 3, 0, 0], [0, 0, 3, 0]]
    once = np.ones((1, 2), np.float32)
    assert weighted("miou", cells, pixels)(once)[0] == pytest.approx((1 / 4 + 2 / 4 + 2 / 3) / 3)
    assert weighted("pixel_accuracy", cells, pixels)(once)[0] == pytest.approx(5 / 8)
    first = np.array([[1, 0], [0, 2]], np.float32)
    assert weighted("miou", cells, pixels)(first).tolist() == pytest.approx([(1 / 3 + 2 / 4) / 2, (0 + 2 / 3) / 2])
