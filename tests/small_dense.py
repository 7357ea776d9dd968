"""Small images of discs and squares, with their boxes and masks, and evaluations on them in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hpt import encoder
from hpt.callbacks import Callbacks
from hpt.config import DataConfig, EvaluateConfig
from hpt.data.dataset import load
from hpt.dense.dataset import DenseDataset
from hpt.dense.evaluation import evaluate_dense
from hpt.dense.targets import Boxes, DenseTask, Mask
from hpt.dense.views import Normalisation
from hpt.evaluate import EvaluationResult
from hpt.processes import Processes

CLASSES = ("disc", "square")


def scene(number: int, height: int = 96, width: int = 128) -> tuple[Mask, Boxes, Mask]:
    """An image of two or three objects: pixels, boxes, and classes (0 for the ground, 1 disc, 2 square)."""
    random = np.random.default_rng([number, 18])
    image = random.normal(90, 12, (height, width, 3))
    mask = np.zeros((height, width), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    boxes, labels = [], []
    for _ in range(int(random.integers(2, 4))):
        side = int(random.integers(22, 40))
        top, left = int(random.integers(0, height - side)), int(random.integers(0, width - side))
        if mask[top : top + side, left : left + side].any():
            continue
        label = int(random.integers(2))
        inside = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        if label == 0:
            middle = side / 2 - 0.5
            inside &= (y - top - middle) ** 2 + (x - left - middle) ** 2 <= (side / 2) ** 2
        image[inside] = (220, 60, 60) if label == 0 else (60, 90, 230)
        mask[inside] = label + 1
        boxes.append((left, top, left + side, top + side))
        labels.append(label)
    found = Boxes(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.zeros(len(labels), np.bool_)
    )
    return image.clip(0, 255).astype(np.uint8), found, mask


def dense(
    folder: Path, task: DenseTask, *, train: int = 8, val: int = 4, test: int = 4, side: int = 96
) -> DenseDataset:
    """A dataset of scenes in `folder`."""
    scenes = {}
    for split, count, first in (("train", train, 0), ("val", 4, 1000), ("test", 4, 2000)):
        for number in range(first, first + count):
            path = folder / split / "all" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels, *targets = scene(number)
            Image.fromarray(pixels).save(path)
            scenes[f"{split}/all/{number}.png"] = targets
    dataset = load(str(folder), DataConfig(), side=side)
    of_row = [scenes[name] for name in dataset.images.names]
    scale = [float(size[0]) / 96 for size in dataset.images.sizes]
    return DenseDataset(
        dataset=dataset,
        task=task,
        classes=CLASSES if task == "detection" else ("ground", *CLASSES),
        boxes=lambda row: of_row[row][0].scaled(scale[row], scale[row]),
        mask=lambda row: of_row[row][1],
        enlarged=lambda row: 1 / scale[row],
    )


class Exact(Normalisation):
    """Normalises to double precision."""

    def of(self, image: torch.Tensor) -> torch.Tensor:
        return super().of(image).double()


def evaluate_exactly(
    settings: EvaluateConfig, data: DenseDataset, folder: Path, processes: Processes | None = None
) -> tuple[EvaluationResult, dict[int, dict[str, float]]]:
    """The result and what was logged of each step, in double precision.

    Sums in another order round otherwise: in single precision a detector then keeps other boxes, and a large learning
    rate soon leads elsewhere.
    """
    logged: dict[int, dict[str, float]] = {}
    log = lambda metrics, step: logged.setdefault(step, {}).update(metrics)  # noqa: E731
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    try:
        state = encoder.build(settings.backbone, seed=3).state_dict()
        norm = Exact((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
        return evaluate_dense(settings, data, state, folder, Callbacks(log=log), norm, processes=processes), logged
    finally:
        torch.set_default_dtype(torch.float32)
