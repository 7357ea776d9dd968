"""Evaluations of a backbone on a labelled dataset. Val chooses; test is computed once, for the choice."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hpt.callbacks import Callbacks
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.evaluate.features import backbone_under_test
from hpt.evaluate.kinds import KINDS
from hpt.evaluate.labels import check_labels, write_labels
from hpt.evaluate.objective import check_metric
from hpt.evaluate.results import report
from hpt.evaluate.setup import MODEL, Common, Setup
from hpt.processes import Compute, Processes

__all__ = ["MODEL", "Common", "EvaluationResult", "evaluate", "score_on_test"]

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found."""

    metrics: dict[str, float]
    """`val/top1`, `test/top1`, ... and, over the reruns of a probe, `test/top1_std`."""
    facts: dict[str, str]
    """What the metrics rest on: the labels used, the images, what val chose, the classes that a metric leaves out."""
    scores: dict[str, Tensor] = field(default_factory=dict)
    """`val`, `test`: [R, n, C] logits of each rerun; kNN's are the logarithm of its votes, -inf for none."""


def evaluate(
    config: EvaluateConfig,
    dataset: Dataset,
    state: Mapping[str, Tensor],
    folder: Path,
    callbacks: Callbacks,
    *,
    common: Common | None = None,
    processes: Processes | None = None,
) -> EvaluationResult:
    """Evaluate the backbone `state` (its encoder's keys) and write predictions into `folder`.

    With `config.test` off the test images are not touched: a sweep tests its winner alone, through `score_on_test`.
    A linear probe or a finetuning goes on from the newest checkpoint in `folder`; a finetuning without one goes on from
    the steps that it has in `common` with others. Of several processes only the main one reads and writes there, and
    has metrics and scores to return.

    Args:
        processes: those of the evaluation, None to join them as the configuration says.

    Raises:
        DataError: there are no labels, one class only, an empty split, classes without training images, or labels that
            leave the headline metric undefined.
        ConfigError: the metric is not defined for the dataset's task, or the device is missing.
        Interrupted: a stop was requested; a checkpoint of that step is saved. ProcessLost: another process is gone.
    """
    processes = processes or Processes(config.processes, config.device)
    splits = ("val", "test") if config.test else ("val",)
    check_labels(dataset, config)
    _check_metric(config, dataset, splits)
    compute, checkpoints = Compute.of(config, processes.device), folder / CHECKPOINTS
    backbone = backbone_under_test(config, dataset.images, state, compute.device)
    setup = Setup(config, dataset, backbone, compute, callbacks, checkpoints, common, processes)
    facts = {"metric": setup.metric}
    if processes.main:
        facts |= write_labels(folder, config, setup.train.images.names, len(dataset.splits["train"]))
    evaluator = KINDS[config.kind](setup)
    facts |= evaluator.fit()
    if processes.main:
        evaluator.save(folder)
    scores = {split: evaluator.scores(split) for split in splits}
    metrics: dict[str, float] = {}
    if not processes.main:
        return EvaluationResult(metrics, facts)
    for split, each in scores.items():
        of_split, about = report(folder, split, each, dataset)
        metrics |= of_split
        facts |= about
    shutil.rmtree(checkpoints, ignore_errors=True)
    return EvaluationResult(metrics, facts, scores)


def score_on_test(
    config: EvaluateConfig, dataset: Dataset, state: Mapping[str, Tensor], folder: Path, callbacks: Callbacks
) -> EvaluationResult:
    """The test metrics of an evaluation of `state` that left the test images alone, from what it wrote to `folder`.

    Raises:
        DataError: the labels of the test split leave the headline metric undefined.
        ConfigError: the metric is not defined for the dataset's task, or the device is missing.
    """
    _check_metric(config, dataset, ("test",))
    compute = Compute.of(config)
    backbone = backbone_under_test(config, dataset.images, state, compute.device)
    setup = Setup(config, dataset, backbone, compute, callbacks)
    evaluator = KINDS[config.kind](setup)
    evaluator.load(folder)
    scores = evaluator.scores("test")
    return EvaluationResult(*report(folder, "test", scores, dataset), {"test": scores})


def _check_metric(config: EvaluateConfig, dataset: Dataset, splits: Iterable[str]) -> None:
    for split in splits:
        where = f"{dataset.name}'s {split} split"
        check_metric(config.metric or dataset.metric, dataset.split(split)[1], dataset.classes, where)
