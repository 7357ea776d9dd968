"""What every kind of evaluation works with."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpt import checkpoint
from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.errors import RunError
from hpt.evaluate.features import embed
from hpt.evaluate.kept_features import CENTRE, KeptFeatures
from hpt.evaluate.labels import choose
from hpt.processes import Compute, Processes
from hpt.schedule import first_drop, parse_schedule

log = logging.getLogger("hpt.evaluate")

MODEL = "model.safetensors"
"""What an evaluation trained, in its run's folder. A finetuned classifier: `backbone.*` with torchvision's keys,
`head.weight` [C, d], `head.bias` [C]. A linear probe that was not tested: its heads, `head.weight` [R, C, d] and
`head.bias` [R, C]."""


class LabelledImages(NamedTuple):
    """Images of one split with their labels."""

    images: Images
    labels: Tensor
    """[n] class numbers, or [n, C] of 0 and 1 of a multi-label set; on the CPU."""


@dataclass(frozen=True)
class Common:
    """What finetunings that differ in their schedule alone have in common: the steps before the learning rate drops."""

    folder: Path
    """Folder for the shared states, used by these finetunings and no others."""
    schedules: tuple[str, ...]
    """The schedules of all of them."""

    def drops(self, images: int, batch: int) -> set[int]:
        """The steps after which the learning rate drops for the first time, over all schedules."""
        return {first_drop(parse_schedule(each).steps(images, batch)) for each in self.schedules}

    def intervals(self, images: int, batch: int) -> set[int]:
        """The numbers of steps between looks at val, over all schedules, where the configuration sets none."""
        return {parse_schedule(each).look_every(images, batch) for each in self.schedules}

    def newest(self, until: int) -> dict[str, Any] | None:
        """The newest shared state of at most `until` steps; None where there is none, or all are damaged."""
        try:
            return checkpoint.newest(self.folder, until=until)
        except RunError as error:
            log.warning("%s: these steps are computed again", error)
            return None


@dataclass(frozen=True)
class Setup:
    """A backbone under test, the labelled images to test it on, and what to compute with."""

    config: EvaluateConfig
    dataset: Dataset
    backbone: nn.Module
    """Images [n, 3, h, w] -> pooled features [n, d], on the device of `compute`."""
    compute: Compute
    callbacks: Callbacks
    checkpoints: Path | None = None
    """Folder for the states from which a stopped evaluation goes on; None: it keeps none."""
    common: Common | None = None
    """Steps shared with other finetunings."""
    processes: Processes = field(default_factory=lambda: Processes(1, "cpu"))
    """Those that share the work. Each of them comes to the same figures; the main one alone writes files."""

    @property
    def metric(self) -> str:
        """The metric by which val chooses."""
        return self.config.metric or self.dataset.metric

    @cached_property
    def train(self) -> LabelledImages:
        """The training images whose labels may be used."""
        images, labels = self.dataset.split("train")
        used = choose(labels, len(self.dataset.classes), self.config, self.dataset.classes)
        return LabelledImages(images.subset(used), torch.from_numpy(labels[used]))

    @cached_property
    def val(self) -> LabelledImages:
        """The images by which the evaluation chooses."""
        images, labels = self.dataset.split("val")
        return LabelledImages(images, torch.from_numpy(labels))

    def images(self, split: str) -> Images:
        """All images of a split."""
        return self.dataset.split(split)[0]

    def features(self, images: Images, what: str) -> Tensor:
        """Features [n, d] of the test views; `what` describes them to the progress callback.

        Raises:
            HptError: a feature is NaN or infinite.
        """
        size, progress = self.config.image_size, self.callbacks.progress
        return self.kept.get(
            images, CENTRE, lambda: embed(self.backbone, images, size, self.compute, progress, what, self.processes)
        )

    @property
    def kept(self) -> KeptFeatures:
        """The features that the backbone, as it is now, has computed before."""
        return KeptFeatures(self.config, self.dataset.name, self.backbone, self.compute, self.processes)

    def saved(self) -> dict[str, Any] | None:
        """The newest checkpoint, which the main process reads for all; None where there is none, or none is kept."""
        folder = self.checkpoints
        return self.processes.of_main(lambda: checkpoint.newest(folder)) if folder is not None else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, by the main process; the others wait for it."""
        if self.checkpoints is not None and self.processes.main:
            checkpoint.save(self.checkpoints, step, state)
        self.processes.wait()
