"""Evaluations of a backbone on a labelled dataset. Val chooses; test is computed once, for the choice."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpt import encoder, metrics, predictions, weights
from hpt.callbacks import Log, Progress, Stop
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.data.listing import Labels
from hpt.errors import DataError
from hpt.evaluate.features import embed
from hpt.evaluate.finetune import Classifier, Common, finetune, predict
from hpt.evaluate.knn import as_logits, knn_scores
from hpt.evaluate.labels import choose
from hpt.evaluate.linear import train_probe
from hpt.evaluate.objective import check_metric
from hpt.files import write_text
from hpt.predictions import Predictions
from hpt.processes import choose_device, use_bf16

log_ = logging.getLogger("hpt.evaluate")

MODEL = "model.safetensors"
"""A finetuned classifier: `backbone.*` with torchvision's keys, `head.weight` [C, d], `head.bias` [C]. Of a linear
probe that was not tested, its heads alone: `head.weight` [R, C, d], `head.bias` [R, C]."""
CHECKPOINTS = "checkpoints"
NAMED = 5
"""Classes named in a message."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, float]
    """`val/top1`, `test/top1`, ...; `test/top1_std` over a probe's reruns."""
    facts: dict[str, str]
    """What the figures rest on: labels used, images, what val chose, classes that a figure leaves out."""
    scores: dict[str, Tensor] = field(default_factory=dict)
    """`val`, `test`: [R, n, C] logits of each rerun; kNN's are the log of its votes, -inf for none."""


def evaluate(
    config: EvaluateConfig,
    dataset: Dataset,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    log: Log,
    progress: Progress,
    stop: Stop = lambda: 0,
    common: Common | None = None,
) -> Evaluation:
    """Evaluate the backbone `state` (torchvision's keys without `fc`) and write predictions into `folder`.

    With `config.test` off the test images are not touched: a sweep tests its winner alone, through `score_on_test`.
    A linear probe or a finetuning goes on from the newest checkpoint in `folder`; a finetuning that has none, from what
    it has in `common` with others.

    Raises:
        DataError: no labels, one class only, an empty split, classes without training images, or labels that leave
            the headline metric undefined.
        ConfigError: the dataset's task has no such metric.
        Interrupted: `stop` said so; a checkpoint of that step is saved.
    """
    metric = config.metric or dataset.metric
    check_labels(dataset, config)
    for name in ("val", "test") if config.test else ("val",):
        check_metric(metric, dataset.split(name)[1], dataset.classes, f"{dataset.name}'s {name} split")
    device = choose_device(config.device)
    bf16 = use_bf16(config.precision, device)
    backbone = encoder.build(config.backbone, seed=config.seed)
    backbone.load_state_dict(dict(state), strict=True)
    backbone.to(device)
    classes = len(dataset.classes)
    images, all_labels = dataset.split("train")
    used = choose(all_labels, classes, config, dataset.classes)
    train = (images.subset(used), torch.from_numpy(all_labels[used]))
    val = _tensors(dataset.split("val"))
    facts = {"metric": metric} | write_labels(folder, config, train[0].names, len(all_labels))
    checkpoints = folder / CHECKPOINTS

    def features_of(name: str, some: Images) -> Tensor:
        return embed(backbone, some, config.image_size, device, bf16=bf16, progress=progress, what=name)

    splits = ("val", "test") if config.test else ("val",)
    if config.kind == "finetune":
        model = Classifier(backbone, encoder.feature_dim(config.backbone), classes, config.seed)
        best = finetune(
            config, model, train, val, metric,
            device=device, bf16=bf16, log=log, progress=progress, checkpoints=checkpoints, common=common,
            stop=stop,
        )  # fmt: skip
        about = {"backbone": config.backbone, "dataset": dataset.name, "classes": "\n".join(dataset.classes)}
        weights.save(best.state, folder / MODEL, metadata=about)
        model.load_state_dict(best.state)
        facts["chosen"] = f"step {best.step} of {best.steps}"
        if best.shared:
            facts["shared_steps"] = str(best.shared)
        scores = {
            name: predict(config, model, dataset.split(name)[0], device, bf16=bf16, progress=progress)[None]
            for name in splits
        }
    elif config.kind == "linear":
        probe = train_probe(
            config, backbone, train, val, classes, metric,
            device=device, bf16=bf16, log=log, progress=progress, checkpoints=checkpoints, stop=stop,
        )  # fmt: skip
        facts["chosen"] = f"lr={probe.lr:g}"
        facts["chosen_steps"] = " ".join(map(str, probe.steps))
        facts["tried"] = ", ".join(f"lr={lr:g}: {value:.4f}" for lr, value in probe.by_lr.items())
        if not config.test:
            heads = {"head.weight": probe.weight.cpu(), "head.bias": probe.bias.cpu()}
            weights.save(heads, folder / MODEL, metadata={"dataset": dataset.name, "lr": f"{probe.lr:g}"})
        scores = {name: probe.scores(features_of(name, dataset.split(name)[0])).cpu() for name in splits}
    else:
        bank, labels = features_of("train", train[0]), train[1].to(device)
        scores = {}
        for name in splits:
            votes = knn_scores(bank, labels, features_of(name, dataset.split(name)[0]), classes, config.knn)
            scores[name] = as_logits(votes, labels)[None].cpu()
        facts["chosen"] = f"k={min(config.knn.k, len(bank))}"
    found: dict[str, float] = {}
    for name, each in scores.items():
        figures, about = report(folder, name, each, dataset)
        found |= figures
        facts |= about
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Evaluation(found, facts, scores)


def score_on_test(
    config: EvaluateConfig, dataset: Dataset, state: Mapping[str, Tensor], folder: Path, *, progress: Progress
) -> Evaluation:
    """Test figures of the backbone `state` with what `evaluate` left in `folder`; kNN needs nothing of it."""
    from safetensors.torch import load_file

    check_metric(config.metric or dataset.metric, dataset.split("test")[1], dataset.classes, f"{dataset.name}'s test")
    device = choose_device(config.device)
    classes = len(dataset.classes)
    backbone = encoder.build(config.backbone, seed=config.seed)
    images = dataset.split("test")[0]
    bf16 = use_bf16(config.precision, device)
    if config.kind == "finetune":
        model = Classifier(backbone, encoder.feature_dim(config.backbone), classes, config.seed)
        model.load_state_dict(load_file(folder / MODEL))
        scores = predict(config, model, images, device, bf16=bf16, progress=progress)[None]
        return Evaluation(*report(folder, "test", scores, dataset), {"test": scores})

    def features_of(name: str, some: Images) -> Tensor:
        return embed(backbone, some, config.image_size, device, bf16=bf16, progress=progress, what=name)

    backbone.load_state_dict(dict(state), strict=True)
    backbone.to(device)
    features = features_of("test", images)
    if config.kind == "linear":
        heads = load_file(folder / MODEL, device=str(device))
        scores = (torch.einsum("nd,rcd->rnc", features, heads["head.weight"]) + heads["head.bias"][:, None]).cpu()
    else:
        train, all_labels = dataset.split("train")
        used = choose(all_labels, classes, config, dataset.classes)
        labels = torch.from_numpy(all_labels[used]).to(device)
        votes = knn_scores(features_of("train", train.subset(used)), labels, features, classes, config.knn)
        scores = as_logits(votes, labels)[None].cpu()
    return Evaluation(*report(folder, "test", scores, dataset), {"test": scores})


def check_labels(dataset: Dataset, config: EvaluateConfig) -> None:
    """A DataError when there is nothing to tell apart, or nothing to learn it from."""
    if not dataset.classes:
        raise DataError(
            f"dataset '{dataset.name}' has no labels, so nothing can be evaluated on it",
            "use class folders, or a list with labels",
        )
    if dataset.task == "single-label" and len(dataset.classes) < 2:
        raise DataError(
            f"dataset '{dataset.name}' has one class only ('{dataset.classes[0]}')",
            "an evaluation needs two or more",
        )
    absent = [name for name, count in zip(dataset.classes, dataset.per_class("train"), strict=True) if not count]
    if not absent:
        return
    said = (
        f"{len(absent)} of {len(dataset.classes)} classes of '{dataset.name}' have no training images: {_named(absent)}"
    )
    if dataset.task == "single-label" and not config.allow_absent_classes:
        raise DataError(
            said, "mend the folders' names, or count their images as errors by --set allow_absent_classes=true"
        )
    log_.warning("%s", said)


def write_labels(folder: Path, config: EvaluateConfig, names: tuple[str, ...], available: int) -> dict[str, str]:
    """`artifacts/labels.txt`: the training images whose labels were used, where that is not all; and facts of it."""
    text = "".join(f"{name}\n" for name in names)
    if len(names) < available:
        (folder / "artifacts").mkdir(exist_ok=True)
        write_text(folder / "artifacts" / "labels.txt", text)
    return {
        "labels": config.labels or (str(len(names)) if len(names) < available else "all"),
        "labels_used": str(len(names)),
        "labels_fingerprint": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32],
    }


def report(folder: Path, split: str, scores: Tensor, dataset: Dataset) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of scores [R, n, C] on a split, and what they rest on; writes predictions and the classes' tables."""
    images, labels = dataset.split(split)
    names = np.array(images.names, dtype=np.str_)
    kept = Predictions(names, labels, scores.float().numpy(), np.array(dataset.classes, dtype=np.str_))
    figures = summarise(split, kept.scores, labels)
    predictions.write(folder, split, kept)
    write_per_class(folder, split, kept)
    facts = {f"{split}_images": str(len(names))}
    left_out = metrics.left_out(labels, len(dataset.classes))
    if named := [f"{key}: {_named([dataset.classes[c] for c in out])}" for key, out in left_out.items() if out]:
        facts[f"{split}_left_out"] = "; ".join(named)
    return figures, facts


def summarise(split: str, scores: metrics.Scores, labels: Labels) -> dict[str, float]:
    """Mean over the reruns of each metric of scores [R, n, C]; the standard deviation too where R > 1."""
    measure = metrics.single_label if labels.ndim == 1 else metrics.multi_label
    rows = [measure(each, labels) for each in scores]
    out = {f"{split}/{key}": statistics.fmean(row[key] for row in rows) for key in rows[0]}
    if len(rows) > 1:
        out |= {f"{split}/{key}_std": statistics.stdev(row[key] for row in rows) for key in rows[0]}
    return out


def write_per_class(folder: Path, split: str, kept: Predictions) -> None:
    """`artifacts/per-class-<split>.csv`, means over the reruns, empty where undefined; of images with one label also
    `artifacts/confusion-<split>.csv`, images of each class (row) by predicted class (column), likewise."""
    tables = [metrics.per_class(each, kept.labels) for each in kept.scores]
    columns = {key: np.mean([getattr(table, key) for table in tables], axis=0) for key in vars(tables[0])}
    rows = [
        [name, *("" if np.isnan(values[c]) else f"{values[c]:.6g}" for values in columns.values())]
        for c, name in enumerate(kept.classes)
    ]
    write_text(folder / "artifacts" / f"per-class-{split}.csv", _csv([["class", *columns], *rows]))
    if kept.labels.ndim == 1:
        counts = np.mean([metrics.confusion(each, kept.labels) for each in kept.scores], axis=0)
        matrix = [[name, *(f"{value:g}" for value in row)] for name, row in zip(kept.classes, counts, strict=True)]
        write_text(folder / "artifacts" / f"confusion-{split}.csv", _csv([["class", *kept.classes], *matrix]))


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _named(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _tensors(split: tuple[Images, Labels]) -> tuple[Images, Tensor]:
    return split[0], torch.from_numpy(split[1])
