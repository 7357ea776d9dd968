"""Detection: Faster R-CNN on a backbone, all of it trained, and average precision by COCO's rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpt.config import DetectionConfig
from hpt.dense import figures, networks, views
from hpt.dense.figures import Detections
from hpt.dense.setup import DenseSetup
from hpt.dense.targets import Boxes
from hpt.errors import HptError

LR_BATCH = 8
"""The batch that the learning rate is given for."""
TOGETHER = 4
"""Images that boxes are found in at once."""


class Detection:
    """A detector in training and in use."""

    metrics = figures.DETECTION

    def __init__(self, setup: DenseSetup) -> None:
        self.setup = setup
        self.section: DetectionConfig = setup.config.detection
        classes = len(setup.dense.classes)
        self.model: nn.Module = networks.detector(setup.backbone, classes, self.section, seed=setup.config.seed)
        self.model.to(setup.compute.device)
        self.images = len(setup.train)
        self.batch_size = min(self.section.batch_size, self.images)
        self.lr = self.section.lr * self.batch_size / LR_BATCH
        steps = self.section.steps
        self.drops = self.section.drops or (round(steps * 3 / 4), round(steps * 11 / 12))

    def batch(self, rows: Tensor, numbers: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Views and targets of some training images."""
        setup = self.setup
        return [
            views.detection_view(
                views.pixels(setup.images, row), setup.dense.boxes(row), some, self.section, setup.normalisation
            )
            for row, some in zip(setup.train[rows.numpy()].tolist(), numbers.tolist(), strict=True)
        ]

    def loss(self, batch: list[tuple[Tensor, dict[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Of proposals and boxes, each by class and by place."""
        device = self.setup.compute.device
        images = [view.to(device, non_blocking=True) for view, _ in batch]
        targets = [{key: value.to(device) for key, value in target.items()} for _, target in batch]
        losses: dict[str, Tensor] = self.model(images, targets)
        return losses

    def figure(self, what: str) -> float:
        """The headline metric on a split."""
        found = self.measure(what)[0].figures
        return found.get(self.setup.metric, 0.0)

    def measure(self, split: str) -> tuple[figures.DetectionFigures, list[Boxes], list[Detections]]:
        """The figures of a split, and its objects and the boxes found, in pixels of the files."""
        rows = self.setup.rows(split)
        found = list(self.predict(rows, f"finding boxes in {split}"))
        truth = [self._in_file(row) for row in rows.tolist()]
        return figures.detection(truth, found, len(self.setup.dense.classes)), truth, found

    def predict(self, rows: npt.NDArray[np.int64], what: str) -> Iterator[Detections]:
        """The boxes found in some images, in pixels of the files."""
        setup, section = self.setup, self.section
        self.model.eval()
        done = 0
        for some in np.split(rows, range(TOGETHER, len(rows), TOGETHER)):
            images, scales = [], []
            for row in some.tolist():
                image = views.pixels(setup.images, row)
                height, width = image.shape[1:]
                size = views.fitted(height, width, section.test_side, section.longest)
                enlarged = setup.dense.enlarged(row)
                scales.append([width / size[1] * enlarged, height / size[0] * enlarged] * 2)
                images.append(setup.normalisation.of(views.resized(image, size)).to(setup.compute.device))
            with torch.no_grad(), setup.compute.autocast():
                outputs: list[dict[str, Any]] = self.model(images)
            for each, scale in zip(outputs, scales, strict=True):
                boxes = each["boxes"].float().cpu().numpy() * np.array(scale, dtype=np.float32)
                if not np.isfinite(boxes).all():
                    raise HptError("the detector's boxes are not finite", "lower detection.lr")
                scores, labels = each["scores"].float().cpu().numpy(), each["labels"].cpu().numpy() - 1
                yield Detections(boxes[: figures.MOST], scores[: figures.MOST], labels[: figures.MOST])
            done += len(some)
            setup.callbacks.progress(done, len(rows), what)

    def _in_file(self, row: int) -> Boxes:
        enlarged = self.setup.dense.enlarged(row)
        return self.setup.dense.boxes(row).scaled(enlarged, enlarged)
