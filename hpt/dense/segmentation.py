"""Segmentation: a fully convolutional head on a backbone, all of it trained, and the mean IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt.config import SegmentationConfig
from hpt.dense import figures, networks, views
from hpt.dense.figures import Packed
from hpt.dense.setup import DenseSetup
from hpt.dense.targets import IGNORED, Mask

LR_BATCH = 16
"""The batch that the learning rate is given for."""


class Segmentation:
    """A segmenter in training and in use."""

    metrics = figures.SEGMENTATION

    def __init__(self, setup: DenseSetup) -> None:
        self.setup = setup
        self.section: SegmentationConfig = setup.config.segmentation
        classes = len(setup.dense.classes)
        self.model: nn.Module = networks.segmenter(setup.backbone, classes, self.section, seed=setup.config.seed)
        self.model.to(setup.compute.device).to(memory_format=setup.compute.memory_format)
        self.images = len(setup.train)
        self.batch_size = min(self.section.batch_size, self.images)
        self.lr = self.section.lr * self.batch_size / LR_BATCH
        self.drops = (round(self.section.steps * 0.7), round(self.section.steps * 0.9))

    def batch(self, rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Views [n, C, crop, crop] and masks [n, crop, crop] of some training images."""
        setup = self.setup
        made = [
            views.segmentation_view(
                views.pixels(setup.images, row), setup.dense.mask(row), some, self.section, setup.normalisation
            )
            for row, some in zip(setup.train[rows.numpy()].tolist(), numbers.tolist(), strict=True)
        ]
        images, masks = (torch.stack(each) for each in zip(*made, strict=True))
        return images, masks

    def loss(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """The cross-entropy of the pixels that count."""
        compute = self.setup.compute
        images, masks = batch[0].to(compute.device, memory_format=compute.memory_format), batch[1].to(compute.device)
        logits: Tensor = self.model(images).float()
        total = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
        return {"pixels": total / (masks != IGNORED).sum().clamp(min=1)}

    def figure(self, what: str) -> float:
        """The headline metric on a split."""
        cells, labels, _ = self.measure(what)
        once = np.ones((1, len(cells)), dtype=np.float32)
        return float(figures.weighted(self.setup.metric, cells, labels)(once)[0])

    def measure(self, split: str, *, keep: bool = False) -> tuple[Packed, Packed, list[Mask]]:
        """Pixels by true and predicted class [n, C * C], and by true class [n, C], of a split; the masks predicted,
        where they are to be kept."""
        rows, classes = self.setup.rows(split), len(self.setup.dense.classes)
        cells, kept = [], []
        for row, guess in zip(rows.tolist(), self.predict(rows, f"segmenting {split}"), strict=True):
            cells.append(figures.confusions([self.setup.dense.mask(row)], [guess], classes)[0][0])
            if keep:
                kept.append(guess)
        counted = np.stack(cells)
        return counted, counted.reshape(-1, classes, classes).sum(axis=2), kept

    def predict(self, rows: npt.NDArray[np.int64], what: str) -> Iterator[Mask]:
        """The class of each pixel of some images, in the pixels of the cache."""
        setup = self.setup
        self.model.eval()
        for done, row in enumerate(rows.tolist(), start=1):
            image = setup.normalisation.of(views.pixels(setup.images, row))[None].to(setup.compute.device)
            with torch.no_grad(), setup.compute.autocast():
                logits = self.model(image)
            yield logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            setup.callbacks.progress(done, len(rows), what)
