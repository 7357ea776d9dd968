"""Average precision by COCO's rules and mean IoU, each also as a function of how often every image counts.

What of an image enters a figure is packed into one row of numbers, so that predictions are kept, compared and resampled
as those of a classification are (`hpt.predictions`, `hpt.metrics.weighted`):

    detection       [MOST * 4] for each of up to 100 boxes: score, class + 1, and as bits of whole numbers at which of
                    the ten thresholds of IoU it matches an object, and at which it counts not at all; labels [C]: the
                    objects of each class
    segmentation    [C * C] pixels by true class (row) and predicted class (column); labels [C]: pixels of each class

pycocotools matches boxes with objects: faster-coco-eval finds the same figures sooner, but keeps to itself the matches,
of which the intervals are made.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt.dense.targets import IGNORED, Boxes, Mask

MOST = 100
"""The boxes of an image that count, those of the highest scores, as in COCO."""
FIELDS = 4
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The IoU from which on a box matches an object."""
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads the precision."""
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas of objects in pixels of the file."""
DETECTION, SEGMENTATION = ("ap", "ap50", "ap75"), ("miou", "pixel_accuracy")
"""The metrics that can choose and be compared."""
BLOCK = 1 << 25
"""Weights of boxes that are looked at together."""

Floats = npt.NDArray[np.float64]
Packed = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """The boxes that a network finds in one image, the highest score first."""

    boxes: npt.NDArray[np.float32]
    """[k, 4] left, top, right, bottom, in pixels of the file."""
    scores: npt.NDArray[np.float32]
    """[k] from 0 to 1."""
    labels: npt.NDArray[np.int64]
    """[k] class numbers."""


def as_rows(found: Sequence[Detections]) -> npt.NDArray[np.float32]:
    """[n, MOST, 6] left, top, right, bottom, score and class number of the boxes of some images, by which processes
    tell each other; of the places that are left the class is -1."""
    rows = np.full((len(found), MOST, 6), -1, dtype=np.float32)
    for row, each in zip(rows, found, strict=True):
        row[: len(each.boxes)] = np.column_stack([each.boxes, each.scores, each.labels])
    return rows


def from_rows(rows: npt.NDArray[np.float32]) -> list[Detections]:
    """The boxes that `as_rows` was given."""
    some = [row[row[:, 5] >= 0] for row in rows]
    return [Detections(each[:, :4], each[:, 4], each[:, 5].astype(np.int64)) for each in some]


@dataclass(frozen=True)
class DetectionFigures:
    """What the boxes found in some images come to."""

    figures: dict[str, float]
    """`ap` (mean over classes and IoU of 0.50 to 0.95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large` by the
    objects' areas, and `ap50_voc`, the area under the curve at 0.5 as Pascal VOC has it since 2010; one that no object
    defines is missing."""
    per_class: npt.NDArray[np.float64]
    """[C, 3] `ap`, `ap50` and `ap75` of each class, NaN of one without objects."""
    packed: Packed
    """[n, MOST * 4]."""
    objects: Packed
    """[n, C] the objects of each class that count."""


def detection(truth: Sequence[Boxes], found: Sequence[Detections], classes: int) -> DetectionFigures:
    """The figures of boxes `found` in images whose objects are `truth`, both in pixels of the file; difficult objects
    count neither as found nor as missed, as COCO's crowds do."""
    evaluated = _matched(truth, found, classes)
    packed, objects = _pack(evaluated, len(truth), classes)
    once = np.ones((1, len(truth)), dtype=np.float32)
    figures = {metric: float(weighted(metric, packed, objects)(once)[0]) for metric in DETECTION}
    precision = evaluated.eval["precision"]  # thresholds x recalls x classes x areas x maxima
    for number, name in enumerate(AREAS, start=1):
        figures[f"ap_{name}"] = _mean(precision[:, :, :, number, -1])
    figures["ap50_voc"] = float(_mean_of_defined(np.array([[_area(packed, objects, c) for c in range(classes)]]))[0])
    per_class = np.array(
        [[_mean(precision[some, :, c, 0, -1]) for some in (slice(None), 0, 5)] for c in range(classes)]
    ).reshape(classes, 3)
    defined = {name: value for name, value in figures.items() if not np.isnan(value)}
    return DetectionFigures(defined, per_class, packed, objects)


def confusions(truth: Sequence[Mask], found: Sequence[Mask], classes: int) -> tuple[Packed, Packed]:
    """[n, C * C] pixels of each image by true and predicted class, and [n, C] by true class; ignored ones count not."""
    cells = np.zeros((len(truth), classes**2), dtype=np.float32)
    for row, (true, guess) in enumerate(zip(truth, found, strict=True)):
        counts = true != IGNORED
        pairs = true[counts].astype(np.int64) * classes + guess[counts]
        cells[row] = np.bincount(pairs, minlength=classes**2)
    return cells, cells.reshape(-1, classes, classes).sum(axis=2)


def iou_per_class(cells: npt.NDArray[Any]) -> Floats:
    """[..., C] intersection over union of each class, from pixels [..., C * C]; NaN of one that is neither there nor
    predicted."""
    classes = round(cells.shape[-1] ** 0.5)
    matrix = cells.reshape(*cells.shape[:-1], classes, classes).astype(np.float64)
    both = np.diagonal(matrix, axis1=-2, axis2=-1)
    either = matrix.sum(axis=-1) + matrix.sum(axis=-2) - both
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(either > 0, both / either, np.nan)
    return found


def weighted(metric: str, packed: Packed, labels: npt.NDArray[Any]) -> Any:
    """Weights [B, n] -> the metric [B], of packed images [n, F]; NaN where no object, or pixel, defines it."""
    if metric in SEGMENTATION:
        return lambda weights: _of_pixels(metric, np.asarray(weights, dtype=np.float64) @ packed.astype(np.float64))
    some = {"ap": range(10), "ap50": range(1), "ap75": range(5, 6)}[metric]
    ranked = [_Ranked.of(packed, labels, c, some) for c in range(labels.shape[1])]

    def measured(weights: npt.NDArray[Any]) -> Floats:
        weights = np.asarray(weights, dtype=np.float64)
        return _mean_of_defined(np.stack([ranking.precision(weights) for ranking in ranked], axis=1))  # B x C

    return measured


@dataclass(frozen=True)
class _Ranked:
    """The boxes of one class in all images, the highest score first."""

    images: npt.NDArray[np.intp]
    """[N] the image of each."""
    matches: npt.NDArray[np.bool_]
    """[T, N] whether it matches an object at each threshold."""
    counts: npt.NDArray[np.bool_]
    """[T, N] whether it counts."""
    objects: Floats
    """[n] the objects of the class in each image."""

    @classmethod
    def of(cls, packed: Packed, labels: npt.NDArray[Any], number: int, thresholds: range) -> _Ranked:
        boxes = packed.reshape(len(packed), -1, FIELDS)
        images, slots = np.nonzero(boxes[:, :, 1] == number + 1)
        mine = boxes[images, slots]
        order = np.argsort(-mine[:, 0], kind="stable")
        matched, aside = (mine[order, field].astype(np.int64) for field in (2, 3))
        bits = np.array(list(thresholds))[:, None]
        return cls(
            images[order], (matched >> bits & 1).astype(bool), ~(aside >> bits & 1).astype(bool),
            labels[:, number].astype(np.float64),
        )  # fmt: skip

    def precision(self, weights: Floats) -> Floats:
        """[B] the precision at COCO's 101 recalls, averaged over them and the thresholds; NaN without objects."""
        total = weights @ self.objects  # B
        rows = max(1, BLOCK // max(len(self.images), 1))
        parts = [self._of_block(weights[at : at + rows], total[at : at + rows]) for at in range(0, len(weights), rows)]
        return np.where(total > 0, np.concatenate(parts), np.nan)

    def _of_block(self, weights: Floats, total: Floats) -> Floats:
        if not len(self.images):
            return np.zeros(len(weights))
        mine = weights[:, self.images]  # B x N
        found = np.zeros(len(weights))
        for right, counts in zip(self.matches, self.counts, strict=True):
            hits = np.cumsum(mine * (right & counts), axis=1)
            misses = np.cumsum(mine * (~right & counts), axis=1)
            precision = hits / np.maximum(hits + misses, np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / np.maximum(total, np.spacing(1))[:, None]
            for row in range(len(weights)):
                at = np.searchsorted(recall[row], RECALLS, side="left")
                found[row] += np.concatenate([precision[row], [0.0]])[at].sum() / len(RECALLS)
        return found / len(self.matches)


def _area(packed: Packed, objects: Packed, number: int) -> float:
    """The area under the curve of precision over recall at an IoU of 0.5, of one class; NaN without objects."""
    ranked = _Ranked.of(packed, objects, number, range(1))
    total = ranked.objects.sum()
    if not total:
        return float("nan")
    right, counts = ranked.matches[0], ranked.counts[0]
    hits, misses = np.cumsum(right & counts), np.cumsum(~right & counts)
    precision = hits / np.maximum(hits + misses, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.concatenate([[0], hits / total])) * envelope).sum())


def _of_pixels(metric: str, cells: Floats) -> Floats:
    if metric == "miou":
        return _mean_of_defined(iou_per_class(cells))
    classes = round(cells.shape[1] ** 0.5)
    right = cells[:, :: classes + 1].sum(axis=1)
    total = cells.sum(axis=1)
    share: Floats = np.where(total > 0, right / np.maximum(total, 1), np.nan)
    return share


def _mean_of_defined(values: Floats) -> Floats:
    """[B, C] -> [B] the mean over the classes that are defined; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: Floats = np.nanmean(values, axis=1)
    return mean


def _mean(precision: npt.NDArray[Any]) -> float:
    """COCO's mean: -1 stands for what no object defines."""
    defined = precision[precision > -1]
    return float(defined.mean()) if len(defined) else float("nan")


def _matched(truth: Sequence[Boxes], found: Sequence[Detections], classes: int) -> Any:
    """pycocotools' evaluation of the boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [
        {
            "image_id": image, "category_id": int(label), "iscrowd": int(hard), "bbox": _corner(box),
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
        }
        for image, each in enumerate(truth, start=1)
        for box, label, hard in zip(each.boxes, each.labels + 1, each.difficult, strict=True)
    ]  # fmt: skip
    results = [
        {
            "image_id": image, "category_id": int(label), "score": float(score), "bbox": _corner(box), "iscrowd": 0,
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
        }
        for image, each in enumerate(found, start=1)
        for box, label, score in zip(each.boxes, each.labels + 1, each.scores, strict=True)
    ]  # fmt: skip
    gold, said = COCO(), COCO()
    images = [{"id": image} for image in range(1, len(truth) + 1)]
    categories = [{"id": c} for c in range(1, classes + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        for coco, annotations in ((gold, objects), (said, results)):
            for number, each in enumerate(annotations, start=1):
                each["id"] = number
            coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
            coco.createIndex()
        evaluated = COCOeval(gold, said, "bbox")
        evaluated.params.maxDets = [1, 10, MOST]
        evaluated.params.areaRng = [[0, 1e10], *map(list, AREAS.values())]
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _corner(box: npt.NDArray[Any]) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _pack(evaluated: Any, images: int, classes: int) -> tuple[Packed, Packed]:
    """The matches of each image at all areas. COCO takes the 100 best of each class: they fit where an image has no
    more in all, which the networks see to."""
    packed = np.zeros((images, MOST, FIELDS), dtype=np.float32)
    objects = np.zeros((images, classes), dtype=np.float32)
    used = np.zeros(images, dtype=np.int64)
    everything = evaluated.params.areaRng[0]
    bits = 1 << np.arange(len(THRESHOLDS))
    for each in evaluated.evalImgs:
        if each is None or each["aRng"] != everything:
            continue
        image, number = each["image_id"] - 1, each["category_id"] - 1
        objects[image, number] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
        many = len(each["dtScores"])
        at = slice(used[image], used[image] + many)
        used[image] += many
        packed[image, at, 0] = each["dtScores"]
        packed[image, at, 1] = number + 1
        packed[image, at, 2] = bits @ (np.asarray(each["dtMatches"]) > 0)
        packed[image, at, 3] = bits @ np.asarray(each["dtIgnore"], dtype=bool)
    return packed.reshape(images, -1), objects
