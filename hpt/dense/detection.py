"""Detection: Faster R-CNN on a backbone, all of it trained, and average precision by COCO's rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt.config import DetectionConfig
from hpt.dense import figures, networks, views
from hpt.dense.draws import Draws
from hpt.dense.figures import Detections
from hpt.dense.setup import DenseSetup, Loss
from hpt.dense.targets import Boxes
from hpt.errors import HptError

LR_BATCH = 8
"""The batch that the learning rate is given for."""
TOGETHER = 4
"""Images that boxes are found in at once."""


class Batch(NamedTuple):
    """What a detector trains on in a step."""

    views: list[tuple[Tensor, dict[str, Tensor]]]
    """This process's images and targets."""
    frame: tuple[int, int]
    """The height and width that hold the images of all processes."""


class Detection:
    """A detector in training and in use."""

    metrics = figures.DETECTION

    def __init__(self, setup: DenseSetup) -> None:
        self.setup = setup
        self.section: DetectionConfig = setup.config.detection
        classes = len(setup.dense.classes)
        self.draws = Draws()
        self.model: Any = networks.detector(setup.backbone, classes, self.section, self.draws, seed=setup.config.seed)
        self.model.to(setup.compute.device)
        self.images = len(setup.train)
        self.batch_size = min(self.section.batch_size, self.images)
        self.lr = self.section.lr * self.batch_size / LR_BATCH
        steps = self.section.steps
        self.drops = self.section.drops or (round(steps * 3 / 4), round(steps * 11 / 12))

    def batch(self, rows: Tensor, numbers: Tensor, mine: Sequence[int]) -> Batch:
        """Views and targets of the training images `mine` among those of a step."""
        setup, section = self.setup, self.section
        drawn = list(zip(setup.train[rows.numpy()].tolist(), numbers.tolist(), strict=True))
        sizes = [views.training_size(setup.images.sizes[row].tolist(), some, section) for row, some in drawn]
        made = [
            views.detection_view(
                views.pixels(setup.images, row), setup.dense.boxes(row), some, section, setup.normalisation
            )
            for row, some in (drawn[at] for at in mine)
        ]
        return Batch(made, (max(height for height, _ in sizes), max(width for _, width in sizes)))

    def loss(self, batch: Batch) -> dict[str, Loss]:
        """Of proposals and boxes, each by class and by place."""
        device = self.setup.compute.device
        images = [view.to(device, non_blocking=True) for view, _ in batch.views]
        targets = [{key: value.to(device) for key, value in target.items()} for _, target in batch.views]
        self.model.transform.frame = batch.frame
        losses: dict[str, Tensor] = self.model(images, targets)
        proposing, finding = self.model.rpn.fg_bg_sampler, self.model.roi_heads.fg_bg_sampler
        by_proposal = {"loss_objectness", "loss_rpn_box_reg"}
        return {
            name: Loss(each.float(), (proposing if name in by_proposal else finding).drawn)
            for name, each in losses.items()
        }

    def figure(self, what: str) -> float:
        """The headline metric on a split."""
        found, metric = self.predict(what), self.setup.metric
        return self.setup.processes.of_main(lambda: self._measured(self._truth(what), found).figures.get(metric, 0.0))

    def measure(self, split: str) -> tuple[figures.DetectionFigures, list[Boxes], list[Detections]] | None:
        """The figures of a split, and its objects and the boxes found, in pixels of the files; None on other processes
        than the main one."""
        found = self.predict(split)
        if not self.setup.processes.main:
            return None
        truth = self._truth(split)
        return self._measured(truth, found), truth, found

    def _measured(self, truth: list[Boxes], found: list[Detections]) -> figures.DetectionFigures:
        return figures.detection(truth, found, len(self.setup.dense.classes))

    def _truth(self, split: str) -> list[Boxes]:
        return [self._in_file(row) for row in self.setup.rows(split).tolist()]

    def predict(self, split: str) -> list[Detections]:
        """The boxes found in the images of a split, in pixels of the files, by all processes.

        Raises:
            HptError: a box is not finite.
        """
        rows, processes = self.setup.rows(split), self.setup.processes
        portions = processes.portions(np.split(rows, range(TOGETHER, len(rows), TOGETHER)))
        counts = [sum(map(len, portion)) for portion in portions]
        found = list(self._predicted(portions[processes.rank], len(rows), f"finding boxes in {split}"))
        packed = torch.from_numpy(figures.as_rows(found)).to(self.setup.compute.device)
        every = figures.from_rows(processes.gather(packed, counts).cpu().numpy())
        if not all(np.isfinite(each.boxes).all() for each in every):
            raise HptError("the detector's boxes are not finite", "lower detection.lr")
        return every

    def _predicted(self, groups: Sequence[npt.NDArray[np.int64]], of: int, what: str) -> Iterator[Detections]:
        """The boxes found in this process's groups of images, among `of` images."""
        setup, section = self.setup, self.section
        self.model.eval()
        done, total = 0, sum(map(len, groups))
        for some in groups:
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
                scores, labels = each["scores"].float().cpu().numpy(), each["labels"].cpu().numpy() - 1
                yield Detections(boxes[: figures.MOST], scores[: figures.MOST], labels[: figures.MOST])
            done += len(some)
            setup.callbacks.progress(of * done // total, of, what)

    def _in_file(self, row: int) -> Boxes:
        enlarged = self.setup.dense.enlarged(row)
        return self.setup.dense.boxes(row).scaled(enlarged, enlarged)
