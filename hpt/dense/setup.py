"""What both kinds of dense evaluation work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.images import Images
from hpt.dense.dataset import DenseDataset
from hpt.dense.views import Normalisation
from hpt.errors import DataError
from hpt.evaluate.labels import choose
from hpt.processes import Compute, Processes


class Loss(NamedTuple):
    """A part of the loss of a batch."""

    mean: Tensor
    """[]"""
    terms: Tensor
    """[] the number of terms that it is the mean of."""


@dataclass(frozen=True)
class DenseSetup:
    """A backbone under test, images with boxes or masks, and what to compute with."""

    config: EvaluateConfig
    dense: DenseDataset
    backbone: nn.Module
    """An encoder, whose layers are taken; on the CPU."""
    compute: Compute
    callbacks: Callbacks
    normalisation: Normalisation
    """That of the images that the backbone was pretrained on, where it is known."""
    processes: Processes = field(default_factory=lambda: Processes(1, "cpu"))
    """Those that share the images of a step and of a split; the main one alone writes files."""

    @property
    def metric(self) -> str:
        """The metric by which val chooses."""
        return self.config.metric or ("ap" if self.config.kind == "detection" else "miou")

    @property
    def images(self) -> Images:
        """All images."""
        return self.dense.dataset.images

    @cached_property
    def train(self) -> npt.NDArray[np.int64]:
        """The training images that may be used: all, or those drawn by `config.labels`."""
        rows = self.rows("train")
        drawn: npt.NDArray[np.int64] = rows[choose(np.zeros(len(rows), dtype=np.int64), 1, self.config)]
        return drawn

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The images of a split.

        Raises:
            DataError: it has none.
        """
        rows: npt.NDArray[np.int64] = self.dense.dataset.splits[split]
        if not len(rows):
            raise DataError(f"{self.dense.dataset.name} has no {split} images", "add some")
        return rows
