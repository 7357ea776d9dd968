"""Evaluations of a backbone on a labelled dataset. Val chooses; test is computed once, for the choice."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpt import encoder, weights
from hpt.callbacks import Log, Progress
from hpt.config import EvaluateConfig
from hpt.data.cache import Images
from hpt.data.dataset import Dataset
from hpt.errors import DataError
from hpt.evaluate.features import embed
from hpt.evaluate.finetune import Classifier, finetune, predict
from hpt.evaluate.knn import knn_scores
from hpt.evaluate.labels import choose
from hpt.evaluate.linear import train_probe
from hpt.files import replacing
from hpt.metrics import single_label
from hpt.processes import choose_device, use_bf16

MODEL = "model.safetensors"
"""A finetuned classifier: `backbone.*` with torchvision's keys, `head.weight` [C, d], `head.bias` [C]."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, float]
    """`val/top1`, `test/top1`, ...; `test/top1_std` over a probe's reruns."""
    facts: dict[str, str]
    """What the figures rest on: labels used, images, what val chose."""
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
) -> Evaluation:
    """Evaluate the backbone `state` (torchvision's keys without `fc`) and write predictions into `folder`.

    With `config.test` off the test images are not touched: a sweep tests its winner alone, through `score_on_test`.

    Raises:
        DataError: no labels, one class only, or an empty split.
    """
    check_labels(dataset)
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
    facts = {
        "labels": config.labels or ("1000" if len(used) < len(all_labels) else "all"),
        "labels_used": str(len(used)),
    }

    if config.kind == "finetune":
        model = Classifier(backbone, encoder.feature_dim(config.backbone), classes, config.seed)
        best = finetune(config, model, train, val, device=device, bf16=bf16, log=log, progress=progress)
        about = {"backbone": config.backbone, "dataset": dataset.name, "classes": "\n".join(dataset.classes)}
        weights.save(best.state, folder / MODEL, metadata=about)
        model.load_state_dict(best.state)
        facts["chosen"] = f"step {best.step} of {best.steps}"
        scores = {"val": predict(config, model, val[0], device, bf16=bf16, progress=progress)[None]}
        if config.test:
            scores["test"] = predict(config, model, dataset.split("test")[0], device, bf16=bf16, progress=progress)[
                None
            ]
    elif config.kind == "linear":
        probe = train_probe(
            config,
            backbone,
            train,
            val,
            classes,
            device=device,
            bf16=bf16,
            log=log,
            progress=progress,
        )
        facts["chosen"] = f"lr={probe.lr:g}"
        facts["tried"] = ", ".join(f"lr={lr:g}: {value:.4f}" for lr, value in probe.by_lr.items())
        scores = {}
        for name in ("val", "test") if config.test else ("val",):
            features = embed(
                backbone,
                dataset.split(name)[0],
                config.image_size,
                device,
                bf16=bf16,
                progress=progress,
                what=name,
            )
            scores[name] = probe.scores(features).cpu()
    else:
        kinds = {"train": train[0], "val": val[0]} | ({"test": dataset.split("test")[0]} if config.test else {})
        features_of = {
            name: embed(backbone, some, config.image_size, device, bf16=bf16, progress=progress, what=name)
            for name, some in kinds.items()
        }
        bank, labels = features_of.pop("train"), train[1].to(device)
        votes = {name: knn_scores(bank, labels, f, classes, config.knn).cpu() for name, f in features_of.items()}
        scores = {name: each.log()[None] for name, each in votes.items()}  # as logits: a softmax gives the votes
        facts["chosen"] = f"k={min(config.knn.k, len(bank))}"
    facts |= {f"{name}_images": str(each.shape[1]) for name, each in scores.items()}
    metrics: dict[str, float] = {}
    for name, each in scores.items():
        metrics |= summarise(name, each, dataset)
        write_predictions(folder, name, each, dataset)
    return Evaluation(metrics, facts, scores)


def score_on_test(config: EvaluateConfig, dataset: Dataset, folder: Path, *, progress: Progress) -> Evaluation:
    """Test figures of the classifier that `evaluate` left in `folder`."""
    from safetensors.torch import load_file

    device = choose_device(config.device)
    classes = len(dataset.classes)
    backbone = encoder.build(config.backbone, seed=config.seed)
    model = Classifier(backbone, encoder.feature_dim(config.backbone), classes, config.seed)
    model.load_state_dict(load_file(folder / MODEL))
    bf16 = use_bf16(config.precision, device)
    scores = predict(config, model, dataset.split("test")[0], device, bf16=bf16, progress=progress)[None]
    write_predictions(folder, "test", scores, dataset)
    return Evaluation(summarise("test", scores, dataset), {"test_images": str(scores.shape[1])}, {"test": scores})


def check_labels(dataset: Dataset) -> None:
    """A DataError when there is nothing to tell apart."""
    if not dataset.classes:
        raise DataError(
            f"dataset '{dataset.name}' has no labels, so nothing can be evaluated on it", "use class folders"
        )
    if dataset.task == "multi-label":
        raise DataError(
            f"dataset '{dataset.name}' is multi-label, which pretraining takes and evaluation does not yet",
            "give each image one label to evaluate on it",
        )
    if len(dataset.classes) < 2:
        raise DataError(
            f"dataset '{dataset.name}' has one class only ('{dataset.classes[0]}')",
            "an evaluation needs two or more",
        )


def summarise(split: str, scores: Tensor, dataset: Dataset) -> dict[str, float]:
    """Mean over the reruns of each metric of scores [R, n, C]; the standard deviation too where R > 1."""
    labels = dataset.split(split)[1]
    rows = [single_label(each.numpy(), labels) for each in scores]
    out = {f"{split}/{key}": statistics.fmean(row[key] for row in rows) for key in rows[0]}
    if len(rows) > 1:
        out |= {f"{split}/{key}_std": statistics.stdev(row[key] for row in rows) for key in rows[0]}
    return out


def write_predictions(folder: Path, split: str, scores: Tensor, dataset: Dataset) -> None:
    """`artifacts/predictions-<split>.npz`: names [n], labels [n], scores [R, n, C] (fp16), classes [C]."""
    images, labels = dataset.split(split)
    (folder / "artifacts").mkdir(exist_ok=True)
    with replacing(folder / "artifacts" / f"predictions-{split}.npz") as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(images.names, dtype=np.str_),
            labels=labels,
            scores=scores.numpy().astype(np.float16),
            classes=np.array(dataset.classes, dtype=np.str_),
        )


def _tensors(split: tuple[Images, np.ndarray]) -> tuple[Images, Tensor]:
    return split[0], torch.from_numpy(split[1])
