"""The kinds of evaluation, and the one shape that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from hpt.config import EvaluationKind
from hpt.evaluate.finetune import Finetuning
from hpt.evaluate.knn import NearestNeighbours
from hpt.evaluate.linear import LinearProbe
from hpt.evaluate.setup import Setup


class Evaluator(Protocol):
    """One kind of evaluation of a backbone: it is fitted, or loaded, and then gives scores."""

    def __init__(self, setup: Setup) -> None: ...

    def fit(self) -> dict[str, str]:
        """Train on the train split and choose by val; returns facts about the choice, `chosen` among them.

        Raises:
            Interrupted: a stop was requested; a checkpoint of that step is saved.
            HptError: features, losses or scores are not finite.
        """

    def scores(self, split: str) -> Tensor:
        """Logits [R, n, C] of each rerun for the images of a split, on the CPU."""

    def save(self, folder: Path) -> None:
        """Write what was fitted into the run's folder (`MODEL`), if `load` or a user needs it."""

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote, in place of `fit`."""


KINDS: dict[EvaluationKind, type[Evaluator]] = {
    "linear": LinearProbe,
    "knn": NearestNeighbours,
    "finetune": Finetuning,
}
