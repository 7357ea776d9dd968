"""Evaluations of a backbone by detection and segmentation. Val chooses; test is computed once, for the choice.

What an evaluation leaves in its run's folder: `model.safetensors`, the network; `artifacts/predictions-<split>.npz`,
what of each image enters the figures; `artifacts/detections-<split>.json`, COCO's list of results (`image_id` is the
name), or `artifacts/masks-<split>.npz`, a mask by the name of each image; `artifacts/per-class-<split>.csv`; and some
pictures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hpt import predictions, weights
from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.dense import pictures
from hpt.dense.dataset import DenseDataset
from hpt.dense.detection import Detection
from hpt.dense.figures import Detections, Packed, iou_per_class
from hpt.dense.segmentation import Segmentation
from hpt.dense.setup import DenseSetup
from hpt.dense.training import train
from hpt.dense.views import Normalisation
from hpt.errors import ConfigError, DataError
from hpt.evaluate import CHECKPOINTS, EvaluationResult
from hpt.evaluate.features import backbone_under_test
from hpt.evaluate.labels import write_labels
from hpt.evaluate.setup import MODEL
from hpt.files import replacing, write_text
from hpt.predictions import Predictions
from hpt.preview import shown
from hpt.processes import Compute, Processes

PICTURES, SHOWN = "pictures", 6
"""The folder of a run for some images of each split, truth beside prediction; they leave the machine with no report but
one that is asked for images."""
TASKS: dict[str, type[Detection] | type[Segmentation]] = {"detection": Detection, "segmentation": Segmentation}


def evaluate_dense(
    config: EvaluateConfig,
    dense: DenseDataset,
    state: Mapping[str, Tensor],
    folder: Path,
    callbacks: Callbacks,
    normalisation: Normalisation | None = None,
    *,
    processes: Processes | None = None,
) -> EvaluationResult:
    """Train a detector or a segmenter on the backbone `state` (torchvision's keys without `fc`), and measure it.

    Of several processes only the main one reads and writes in `folder`, and has metrics to return.

    Args:
        normalisation: of the images that the backbone was pretrained on; None: of the dataset's own.
        processes: those of the evaluation, None to join them as the configuration says.

    Raises:
        DataError: there are no classes, no objects to train on, or a split has no images.
        ConfigError: the metric is not one of the task's, the backbone has no such pooling, or the device is missing.
        Interrupted: a stop was requested; a checkpoint of that step is saved. ProcessLost: another process is gone.
    """
    processes = processes or Processes(config.processes, config.device)
    task = _task(config, dense, state, callbacks, normalisation, processes)
    facts = {"metric": task.setup.metric}
    if processes.main:
        names = dense.dataset.images.subset(task.setup.train).names
        facts |= write_labels(folder, config, names, len(dense.dataset.splits["train"]))
    best = train(task, config, task.setup.compute, callbacks, folder / CHECKPOINTS, processes)
    task.model.load_state_dict(best.state)
    facts["chosen"] = f"step {best.step} of {task.section.steps}"
    about = {"backbone": config.backbone, "dataset": dense.dataset.name, "kind": config.kind}
    about |= {"classes": "\n".join(dense.classes), "normalisation": json.dumps(vars(task.setup.normalisation))}
    if processes.main:
        weights.save(task.model.state_dict(), folder / MODEL, metadata=about)
    metrics: dict[str, float] = {}
    for split in ("val", "test") if config.test else ("val",):
        metrics |= _report(task, split, folder)
        facts[f"{split}_images"] = str(len(task.setup.rows(split)))
    if processes.main:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return EvaluationResult(metrics, facts)


def score_dense_on_test(
    config: EvaluateConfig,
    dense: DenseDataset,
    state: Mapping[str, Tensor],
    folder: Path,
    callbacks: Callbacks,
    normalisation: Normalisation | None = None,
) -> EvaluationResult:
    """The test figures of an evaluation that left the test images alone, from what it wrote to `folder`."""
    from safetensors.torch import load_file

    task = _task(config, dense, state, callbacks, normalisation, Processes(1, config.device))
    task.model.load_state_dict(load_file(folder / MODEL))
    return EvaluationResult(_report(task, "test", folder), {"test_images": str(len(task.setup.rows("test")))})


def _task(
    config: EvaluateConfig,
    dense: DenseDataset,
    state: Mapping[str, Tensor],
    callbacks: Callbacks,
    normalisation: Normalisation | None,
    processes: Processes,
) -> Detection | Segmentation:
    kind = TASKS[config.kind]
    if config.metric is not None and config.metric not in kind.metrics:
        raise ConfigError(f"{config.metric} is no metric of {config.kind}", f"choose one of {', '.join(kind.metrics)}")
    images = dense.dataset.images
    if normalisation is None or len(normalisation.mean) != len(images.mean):
        normalisation = Normalisation(images.mean, images.std)
    compute = Compute.of(config, processes.device)
    backbone = backbone_under_test(config, images, state, compute.device)
    setup = DenseSetup(config, dense, backbone, compute, callbacks, normalisation, processes)
    _refuse_empty(setup)
    return kind(setup)


def _refuse_empty(setup: DenseSetup) -> None:
    name = setup.dense.dataset.name
    if not setup.dense.classes:
        raise DataError(f"'{name}' has no classes", "annotate some images")
    if setup.config.kind == "detection" and not any(
        (~setup.dense.boxes(row).difficult).any() for row in setup.train.tolist()
    ):
        raise DataError(f"none of the {len(setup.train)} training images of '{name}' has a box", "annotate some")
    for split in ("val", "test") if setup.config.test else ("val",):
        rows = setup.rows(split)
        if setup.config.kind == "detection" and not any(len(setup.dense.boxes(row)) for row in rows.tolist()):
            raise DataError(f"none of the {len(rows)} {split} images of '{name}' has a box", "annotate some")


def _report(task: Detection | Segmentation, split: str, folder: Path) -> dict[str, float]:
    """The figures of a split; writes the predictions and the table by class. Other processes than the main one help to
    predict, and have none."""
    setup = task.setup
    names = setup.dense.dataset.images.subset(setup.rows(split)).names
    classes = setup.dense.classes
    if setup.processes.main:
        (folder / "artifacts").mkdir(exist_ok=True)
    if isinstance(task, Detection):
        if (made := task.measure(split)) is None:
            return {}
        measured, truth, found = made
        figures, columns = measured.figures, dict(zip(task.metrics, measured.per_class.T, strict=True))
        packed, labels = measured.packed, measured.objects
        columns = {"objects": labels.sum(axis=0)} | columns
        for at in _shown(len(names)):
            image = shown(setup.images.batch([int(setup.rows(split)[at])]).image(0))
            enlarged = setup.dense.enlarged(int(setup.rows(split)[at]))
            true, guess = truth[at].scaled(1 / enlarged, 1 / enlarged), found[at]
            guess = Detections(guess.boxes / np.float32(enlarged), guess.scores, guess.labels)
            picture = pictures.truth_and_boxes(image, true, guess, classes)
            pictures.save(picture, folder / PICTURES / f"{split}-{at}.jpg")
        _write_detections(folder / "artifacts" / f"detections-{split}.json", names, found, classes)
    else:
        packed, labels, masks = task.measure(split)
        if not setup.processes.main:
            return {}
        total = packed.astype(np.float64).sum(axis=0)
        iou = iou_per_class(total)
        matrix = total.reshape(len(classes), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {"pixels": matrix.sum(axis=1), "iou": iou, "accuracy": np.diagonal(matrix) / matrix.sum(axis=1)}
        figures = {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(np.trace(matrix) / matrix.sum())}
        for at in _shown(len(names)):
            row = int(setup.rows(split)[at])
            image = shown(setup.images.batch([row]).image(0))
            picture = pictures.truth_and_mask(image, setup.dense.mask(row), masks[at])
            pictures.save(picture, folder / PICTURES / f"{split}-{at}.jpg")
        with replacing(folder / "artifacts" / f"masks-{split}.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, **dict(zip(names, masks, strict=True)))  # type: ignore[arg-type]
    predictions.write(folder, split, _kept(names, labels, packed, classes))
    lines = [",".join(["class", *columns])]
    for number, name in enumerate(classes):
        cells = ("" if np.isnan(values[number]) else f"{values[number]:.6g}" for values in columns.values())
        lines.append(",".join([f'"{name}"' if "," in name else name, *cells]))
    write_text(folder / "artifacts" / f"per-class-{split}.csv", "\n".join(lines) + "\n")
    return {f"{split}/{key}": value for key, value in figures.items()}


def _shown(count: int) -> list[int]:
    """Some images of a split, evenly spaced."""
    return sorted({(at * count) // SHOWN for at in range(SHOWN)})


def _kept(names: Sequence[str], labels: Packed, packed: Packed, classes: Sequence[str]) -> Predictions:
    return Predictions(np.array(names, np.str_), labels, packed[None], np.array(classes, np.str_))


def _write_detections(path: Path, names: Sequence[str], found: Sequence[Detections], classes: Sequence[str]) -> None:
    results: list[dict[str, Any]] = [
        {
            "image_id": name,
            "category_id": int(label) + 1,
            "category": classes[label],
            "bbox": [round(float(v), 2) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": round(float(score), 5),
        }
        for name, each in zip(names, found, strict=True)
        for box, score, label in zip(each.boxes, each.scores, each.labels, strict=True)
    ]
    write_text(path, json.dumps(results))
